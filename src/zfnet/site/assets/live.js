// The page: a photo in, guesses, maps and projections out. The arithmetic is ONNX Runtime Web's.
"use strict"

const find = id => document.getElementById(id)
const nets = JSON.parse(find("nets").textContent)
const FEW = 24 // maps shown at first
const LARGEST = 16e6 // pixels of a photo that a phone's canvas holds
const RAMP = [[8, 8, 20], [92, 32, 108], [228, 88, 80], [252, 236, 176]]

let ort = null
let queue = Promise.resolve()
const loaded = new Map()
// photo: RGBA of a whole picture; pixels: RGB of what the net sees of it; clean, now: {guess, maps}
const state = { net: 0, stage: 0, channel: 0, unit: [0, 0], all: false, photo: null, pixels: null, clean: null, now: null, square: null, times: {} }
const about = () => nets[state.net]
const stage = () => about().stages[state.stage]

// --- The net

async function unpack(id) {
  const text = atob(find(id).textContent)
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

async function startRuntime() {
  const [script, binary] = await Promise.all([unpack("runtime-script"), unpack("runtime-binary")])
  ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })))
  ort.env.wasm.wasmBinary = binary
  ort.env.wasm.numThreads = 1
  ort.env.logLevel = "error"
}

// One session for each net, and one call of it at a time.
async function session(n) {
  if (!loaded.has(n)) loaded.set(n, unpack(`net-${n}`).then(model => ort.InferenceSession.create(model, { logSeverityLevel: 3 })))
  return loaded.get(n)
}

function serially(job) {
  queue = queue.catch(() => {}).then(job)
  return queue
}

// What the net makes of an input (3, S, S); with a seed {number, data}, that seed's projection.
function run(n, input, seed = null) {
  return serially(async () => {
    const { size, stages } = nets[n]
    const feeds = { image: new ort.Tensor("float32", input, [1, 3, size, size]), down: new ort.Tensor("bool", [seed !== null], []) }
    for (const { number, channels, rows, columns } of stages) {
      const shape = [1, channels, rows.length, columns.length]
      const data = seed && seed.number === number ? seed.data : new Float32Array(channels * rows.length * columns.length)
      feeds[`seed_${number}`] = new ort.Tensor("float32", data, shape)
    }
    const wanted = seed ? ["pixels"] : ["outputs", ...stages.map(one => `maps_${one.number}`)]
    const net = await session(n)
    const found = await net.run(feeds, wanted)
    if (seed) return found.pixels.data
    return { guess: probabilities(found.outputs.data, nets[n].kind), maps: stages.map(one => found[`maps_${one.number}`].data) }
  })
}

function probabilities(outputs, kind) {
  if (kind === "none") return outputs
  if (kind === "sigmoid") return outputs.map(x => 1 / (1 + Math.exp(-x)))
  const top = outputs.reduce((a, b) => Math.max(a, b))
  const powers = Array.from(outputs, x => Math.exp(x - top))
  const sum = powers.reduce((a, b) => a + b)
  return powers.map(x => x / sum)
}

// --- The photo as the net's input

// The largest centred square of RGBA pixels, brought to RGB of side x side: Pillow's bicubic filter,
// whole numbers and all, along the rows first (Pillow 13 begins with the columns of some pictures).
function fit(pixels, width, height, side) {
  const square = Math.min(width, height)
  const across = taps(width, (width - square) / 2, square, side)
  const down = taps(height, (height - square) / 2, square, side)
  const clip = sum => Math.max(0, Math.min(255, Math.floor(sum / 4194304)))
  const first = down[0].first
  const last = Math.max(...down.map(one => one.first + one.weights.length))
  const rows = new Uint8Array((last - first) * side * 3)
  for (let y = first; y < last; y++)
    across.forEach(({ first: left, weights }, x) => {
      for (let c = 0; c < 3; c++) {
        let sum = 2097152
        for (let k = 0; k < weights.length; k++) sum += weights[k] * pixels[4 * (y * width + left + k) + c]
        rows[3 * ((y - first) * side + x) + c] = clip(sum)
      }
    })
  const out = new Uint8Array(side * side * 3)
  down.forEach(({ first: top, weights }, y) => {
    for (let i = 0; i < 3 * side; i++) {
      let sum = 2097152
      for (let k = 0; k < weights.length; k++) sum += weights[k] * rows[3 * side * (top - first + k) + i]
      out[3 * side * y + i] = clip(sum)
    }
  })
  return out
}

// For each of `count` outputs the inputs it reads, from `first` on, and their weights times 2^22.
function taps(length, start, extent, count) {
  const scale = extent / count
  const wide = Math.max(scale, 1)
  return Array.from({ length: count }, (_, n) => {
    const centre = start + (n + 0.5) * scale
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5))
    const end = Math.min(length, Math.trunc(centre + 2 * wide + 0.5))
    const found = Array.from({ length: end - first }, (_, k) => cubic((k + first - centre + 0.5) * (1 / wide)))
    const sum = found.reduce((a, b) => a + b)
    return { first, weights: found.map(w => Math.trunc((w / sum) * 4194304 + (w < 0 ? -0.5 : 0.5))) }
  })
}

function cubic(x) {
  x = Math.abs(x)
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0
}

function statistics(values) {
  if (typeof values !== "string") return values
  const text = atob(values)
  return new Float32Array(Uint8Array.from(text, letter => letter.charCodeAt(0)).buffer)
}

// RGB pixels to (3, S, S), normalised; the square, if any, holds zeros: the mean colour.
function normalised(n, pixels, square = null) {
  const { size, mean, factor } = nets[n]
  const [means, factors] = [statistics(mean), statistics(factor)]
  const area = size * size
  const input = new Float32Array(3 * area)
  const at = (values, c, i) => (values.length === 3 ? values[c] : values[c * area + i])
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < area; i++) input[c * area + i] = Math.fround(pixels[3 * i + c] - at(means, c, i)) * at(factors, c, i)
  if (square)
    for (let c = 0; c < 3; c++)
      for (let y = square.top; y < square.top + square.side; y++)
        input.fill(0, c * area + y * size + square.left, c * area + y * size + square.left + square.side)
  return input
}

async function readPhoto(source) {
  const bitmap = await createImageBitmap(source, { colorSpaceConversion: "none", premultiplyAlpha: "none" })
  const share = Math.min(1, Math.sqrt(LARGEST / (bitmap.width * bitmap.height)))
  const canvas = document.createElement("canvas")
  canvas.width = Math.floor(bitmap.width * share)
  canvas.height = Math.floor(bitmap.height * share)
  const context = canvas.getContext("2d", { willReadFrequently: true })
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  return context.getImageData(0, 0, canvas.width, canvas.height)
}

// --- What is shown

function ramp(share) {
  const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1)
  const low = Math.min(RAMP.length - 2, Math.floor(place))
  return RAMP[low].map((value, c) => value + (place - low) * (RAMP[low + 1][c] - value))
}

function paint(canvas, width, height, colour) {
  canvas.width = width
  canvas.height = height
  const image = new ImageData(width, height)
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = colour(i)
    image.data.set([r, g, b, 255], 4 * i)
  }
  canvas.getContext("2d").putImageData(image, 0, 0)
}

function one(maps, channel) {
  const area = stage().rows.length * stage().columns.length
  return maps[state.stage].subarray(channel * area, (channel + 1) * area)
}

const total = values => values.reduce((a, b) => a + b, 0)
const largest = values => values.reduce((a, b) => Math.max(a, b), 0)
const short = value => (value === 0 ? "0" : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3))
const percent = value => (100 * value).toFixed(1) + " %"

function paintMap(canvas, channel) {
  const top = largest(one(state.clean.maps, channel)) || 1
  const values = one(state.now.maps, channel)
  paint(canvas, stage().columns.length, stage().rows.length, i => ramp(values[i] / top))
}

function strongest() {
  const sums = Array.from({ length: stage().channels }, (_, n) => total(one(state.clean.maps, n)))
  return [...sums.keys()].sort((a, b) => sums[b] - sums[a])
}

function showGuesses() {
  const { guess } = state.clean
  const order = [...guess.keys()].sort((a, b) => guess[b] - guess[a]).slice(0, 5)
  find("guesses").replaceChildren(
    ...order.map(n => {
      const item = document.createElement("li")
      item.style.setProperty("--clean", `${100 * guess[n]}%`)
      item.style.setProperty("--now", `${100 * state.now.guess[n]}%`)
      for (const text of [about().classes[n], percent(state.now.guess[n])]) item.append(Object.assign(document.createElement("span"), { textContent: text }))
      return item
    })
  )
  find("effect").textContent = state.square ? effect(order[0]) : ""
}

function effect(first) {
  const { clean, now, channel, square } = state
  const best = now.guess.indexOf(largest(now.guess))
  const changed = best === first ? "" : ` First guess now: ${about().classes[best]}, ${percent(now.guess[best])}.`
  return `Square at row ${square.top}, column ${square.left}. ${about().classes[first]}: ${percent(clean.guess[first])} → ${percent(now.guess[first])}. Map ${channel} of stage ${stage().number}: total activity ${short(total(one(clean.maps, channel)))} → ${short(total(one(now.maps, channel)))}.${changed}`
}

function showStages() {
  find("stages").replaceChildren(
    ...about().stages.map(({ number, layer, channels, rows, columns }, n) => {
      const button = document.createElement("button")
      button.textContent = `Stage ${number}`
      button.title = `${layer}: ${channels} maps of ${rows.length} × ${columns.length}`
      button.setAttribute("aria-pressed", n === state.stage)
      button.onclick = () => chooseStage(n)
      return button
    })
  )
}

function showMaps() {
  const order = strongest()
  const shown = state.all ? order : order.slice(0, FEW)
  find("maps").replaceChildren(
    ...shown.map(channel => {
      const button = document.createElement("button")
      button.dataset.channel = channel
      button.setAttribute("aria-label", `Map ${channel}`)
      button.setAttribute("aria-pressed", channel === state.channel)
      button.append(document.createElement("canvas"), String(channel))
      button.onclick = () => chooseMap(channel)
      return button
    })
  )
  find("maps-title").textContent = `Feature maps of stage ${stage().number} (${stage().layer})`
  find("more").textContent = state.all ? `Only the ${FEW} strongest` : `All ${order.length} maps`
  find("more").hidden = order.length <= FEW
  paintMaps()
}

function paintMaps() {
  for (const button of find("maps").children) paintMap(button.firstChild, +button.dataset.channel)
  paintMap(find("map"), state.channel)
  markUnit()
}

// A frame around the chosen unit, as wide as the map's pixels allow.
function markUnit() {
  const small = find("map")
  const [rows, cols] = [stage().rows.length, stage().columns.length]
  const scale = Math.max(1, Math.round(448 / cols))
  const picture = document.createElement("canvas")
  picture.width = cols
  picture.height = rows
  picture.getContext("2d").drawImage(small, 0, 0)
  small.width = cols * scale
  small.height = rows * scale
  const context = small.getContext("2d")
  context.imageSmoothingEnabled = false
  context.drawImage(picture, 0, 0, small.width, small.height)
  const grown = Math.max(scale, 9)
  const [y, x] = state.unit.map(n => n * scale - (grown - scale) / 2)
  for (const [colour, width] of [["#000", 6], ["#ffd23f", 3]]) {
    context.strokeStyle = colour
    context.lineWidth = width
    context.strokeRect(x, y, grown, grown)
  }
}

function box() {
  const [top, bottom] = stage().rows[state.unit[0]]
  const [left, right] = stage().columns[state.unit[1]]
  return { top, bottom, left, right }
}

function place(element, top, left, bottom, right) {
  const share = n => (100 * n) / about().size + "%"
  Object.assign(element.style, { top: share(top), left: share(left), height: share(bottom - top), width: share(right - left) })
  element.hidden = false
}

function showPhoto() {
  paint(find("photo"), about().size, about().size, i => state.pixels.subarray(3 * i, 3 * i + 3))
}

function showSquare() {
  find("stack").classList.toggle("covered", state.square !== null)
  find("cover").checked = state.square !== null
  find("side-now").textContent = `${find("side").value} px`
  find("square").hidden = true
  if (!state.square) return
  const { top, left, side } = state.square
  if (typeof about().mean !== "string") find("square").style.background = `rgb(${about().mean.map(Math.round)})`
  place(find("square"), top, left, top + side, left + side)
}

function showNine() {
  const nine = JSON.parse(find(`patches-${state.net}`).textContent)
  const patch = nine[stage().number]?.[state.channel]
  find("nine").hidden = !patch
  if (patch) find("nine").firstElementChild.src = `data:image/webp;base64,${patch}`
}

// The 98th percentile of the absolute values that are not zero.
function contrast(values) {
  const sizes = Float32Array.from(values.filter(v => v !== 0), Math.abs).sort()
  if (!sizes.length) return 1
  const at = 0.98 * (sizes.length - 1)
  const low = Math.floor(at)
  return sizes[low] + (at - low) * ((sizes[low + 1] ?? sizes[low]) - sizes[low])
}

// --- What is done

async function timed(what, job) {
  const start = performance.now()
  const found = await job()
  state.times[what] = performance.now() - start
  find("times").textContent = "The last times: " + Object.entries(state.times).map(([name, ms]) => `${name} ${ms.toFixed(0)} ms`).join(", ") + "."
  return found
}

// The projection of one unit, as the whole input (3, S, S); what the net says is that of `input`.
function project(n, input, maps, at, channel, [row, col]) {
  const { number, channels, rows, columns } = nets[n].stages[at]
  const place = (channel * rows.length + row) * columns.length + col
  const data = new Float32Array(channels * rows.length * columns.length)
  data[place] = maps[at][place]
  return run(n, input, { number, data })
}

async function chooseUnit(unit) {
  state.unit = unit
  paintMap(find("map"), state.channel)
  markUnit()
  const { top, bottom, left, right } = box()
  place(find("field"), top, left, bottom, right)
  const value = one(state.now.maps, state.channel)[unit[0] * stage().columns.length + unit[1]]
  find("unit").textContent = `Map ${state.channel} of stage ${stage().number} (${stage().layer}), unit at row ${unit[0]}, column ${unit[1]}: activation ${short(value)}. It sees rows ${top} to ${bottom - 1} and columns ${left} to ${right - 1} of ${about().size} × ${about().size} pixels.`
  const size = about().size
  const wide = right - left
  const pixel = i => (top + Math.floor(i / wide)) * size + left + (i % wide)
  for (const id of ["seen", "projection"]) find(id).classList.toggle("small", wide < 40)
  paint(find("seen"), wide, bottom - top, i => state.pixels.subarray(3 * pixel(i), 3 * pixel(i) + 3))
  const current = () => [state.net, state.stage, state.channel, state.unit].join()
  const [asked, now] = [current(), state.now]
  const input = normalised(state.net, state.pixels, state.square)
  const pixels = await timed("projection", () => project(state.net, input, now.maps, state.stage, state.channel, unit))
  if (asked !== current() || now !== state.now) return
  const scale = contrast(pixels)
  const level = n => 127.5 + 127.5 * Math.max(-1, Math.min(1, pixels[n] / scale))
  paint(find("projection"), wide, bottom - top, i => [0, 1, 2].map(c => level(c * size * size + pixel(i))))
}

function chooseMap(channel) {
  state.channel = channel
  for (const button of find("maps").children) button.setAttribute("aria-pressed", +button.dataset.channel === channel)
  showNine()
  if (state.square) showGuesses()
  const values = one(state.now.maps, channel)
  const place = Math.max(0, values.indexOf(largest(values)))
  const columns = stage().columns.length
  return chooseUnit([Math.floor(place / columns), place % columns])
}

function chooseStage(n) {
  state.stage = Math.min(n, about().stages.length - 1)
  state.channel = strongest()[0]
  state.unit = [0, 0]
  showStages()
  showMaps()
  return chooseMap(state.channel)
}

// RGB pixels, S x S, as the net sees them: everything anew.
async function usePixels(pixels) {
  state.pixels = pixels
  state.square = null
  showSquare()
  showPhoto()
  state.clean = state.now = await timed("guesses and maps", () => run(state.net, normalised(state.net, pixels)))
  showGuesses()
  await chooseStage(state.stage)
}

async function usePhoto(source, name = null) {
  try {
    state.photo = await readPhoto(source)
  } catch {
    find("unit").textContent = "This browser cannot read that file as a picture."
    return
  }
  for (const button of document.querySelectorAll("[data-photo]")) button.setAttribute("aria-pressed", button.dataset.photo === name)
  await fitted()
}

async function useNet(n) {
  state.net = n
  for (const button of document.querySelectorAll("[data-net]")) button.setAttribute("aria-pressed", +button.dataset.net === n)
  state.square = null
  Object.assign(find("side"), { max: Math.floor(about().size / 2), value: about().square })
  showSquare()
  if (!loaded.has(n)) find("unit").textContent = "The net is being read…"
  await session(n)
  if (state.photo) await fitted()
}

function fitted() {
  const { data, width, height } = state.photo
  return usePixels(fit(data, width, height, about().size))
}

// The square where it is now: of several moves that wait, only the last is computed.
let moving = null
function moveSquare(top, left) {
  const { size } = about()
  const side = +find("side").value
  const inside = n => Math.max(0, Math.min(size - side, Math.round(n)))
  state.square = { top: inside(top), left: inside(left), side }
  showSquare()
  moving ??= new Promise(resolve => requestAnimationFrame(resolve)).then(covered)
  return moving
}

async function covered() {
  moving = null
  if (!state.clean) return
  const { square, pixels, net } = state
  const found = square ? await timed("square", () => run(net, normalised(net, pixels, square))) : state.clean
  if (pixels !== state.pixels || net !== state.net) return
  state.now = found
  showGuesses()
  paintMaps()
}

async function uncover() {
  state.square = null
  showSquare()
  await covered()
}

function toggleSquare(on) {
  const middle = (about().size - find("side").value) / 2
  return on ? moveSquare(middle, middle) : uncover()
}

// --- Hands

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }

function listen() {
  for (const button of document.querySelectorAll("[data-photo]"))
    button.onclick = () => usePhoto(button.firstElementChild, button.dataset.photo)
  for (const button of document.querySelectorAll("[data-net]")) button.onclick = () => useNet(+button.dataset.net)
  find("file").onchange = event => event.target.files[0] && usePhoto(event.target.files[0])
  find("cover").onchange = event => toggleSquare(event.target.checked)
  find("side").oninput = () => {
    if (state.square) moveSquare(state.square.top, state.square.left)
    else showSquare()
  }
  find("more").onclick = () => {
    state.all = !state.all
    showMaps()
  }
  const stack = find("stack")
  const drag = event => {
    const { left, top, width } = stack.getBoundingClientRect()
    const scale = about().size / width
    const half = find("side").value / 2
    moveSquare((event.clientY - top) * scale - half, (event.clientX - left) * scale - half)
  }
  stack.onpointerdown = event => {
    if (!state.clean || (event.pointerType !== "mouse" && !state.square)) return
    stack.setPointerCapture(event.pointerId)
    drag(event)
  }
  stack.onpointermove = event => stack.hasPointerCapture(event.pointerId) && drag(event)
  stack.onkeydown = event => {
    const [down, right] = ARROWS[event.key] ?? []
    if (event.key === "Escape" && state.square) uncover()
    if (down === undefined || !state.square) return
    event.preventDefault()
    const step = event.shiftKey ? 1 : 8
    moveSquare(state.square.top + step * down, state.square.left + step * right)
  }
  const map = find("map")
  const inside = (n, count) => Math.max(0, Math.min(count - 1, n))
  map.onclick = event => {
    if (!state.clean) return
    const { left, top, width, height } = map.getBoundingClientRect()
    const [rows, cols] = [stage().rows.length, stage().columns.length]
    const row = Math.floor(((event.clientY - top) / height) * rows)
    chooseUnit([inside(row, rows), inside(Math.floor(((event.clientX - left) / width) * cols), cols)])
  }
  map.onkeydown = event => {
    const [down, right] = ARROWS[event.key] ?? []
    if (down === undefined || !state.clean) return
    event.preventDefault()
    const [row, col] = state.unit
    chooseUnit([inside(row + down, stage().rows.length), inside(col + right, stage().columns.length)])
  }
  document.ondragover = event => {
    event.preventDefault()
    document.body.classList.add("over")
  }
  document.ondragleave = event => event.relatedTarget || document.body.classList.remove("over")
  document.ondrop = event => {
    event.preventDefault()
    document.body.classList.remove("over")
    if (event.dataTransfer.files[0]) usePhoto(event.dataTransfer.files[0])
  }
}

// Resolved once the first photo is taken apart; what is in it is what the tests call.
window.live = { state, nets, run, fit, normalised, project, useNet, usePixels, usePhoto, moveSquare, chooseStage, chooseUnit, ready: null }
window.live.ready = (async () => {
  const missing = ["DecompressionStream", "WebAssembly", "createImageBitmap"].filter(name => !(name in window))
  if (missing.length) {
    find("unit").textContent = `This browser is too old for this page: it lacks ${missing.join(", ")}.`
    return
  }
  listen()
  state.stage = nets[0].stages.length - 1
  await startRuntime()
  await useNet(0)
  state.times["page ready after"] = performance.now()
  await usePhoto(document.querySelector("[data-photo] img"), document.querySelector("[data-photo]").dataset.photo)
})()
