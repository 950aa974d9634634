/* Filters, tables, keys and theme of the gallery. No page needs a server: data stands in the page as JSON. */
(function () {
  "use strict";

  const root = document.documentElement.dataset.root;
  const read = (id) => { const found = document.getElementById(id); return found && JSON.parse(found.textContent) };
  const site = read("site"), data = read("data");
  const byId = (id) => document.getElementById(id);
  const make = (tag, more, ...children) => { const node = Object.assign(document.createElement(tag), more); node.append(...children); return node };
  const page = document.body.classList;
  const three = (value) => !value ? "0" : Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3) ? value.toPrecision(3) : value.toPrecision(3).replace(/\.$/, "");

  // --- Where to go: "3:17", or "17" on the pages of its layer

  function address(text) {
    const [, layer, channel] = /^\s*(?:(\d+)\s*[:.,\/ ]\s*)?(\d+)\s*$/.exec(text) || [];
    if (channel === undefined) return { error: "Write layer:map, such as 3:17." };
    const number = layer === undefined ? data && data.layer : Number(layer);
    if (number === null) return { error: "Write layer:map, such as 3:17." };
    const maps = site.layers[number];
    if (!maps) return { error: `There is no layer ${number}.` };
    if (Number(channel) >= maps) return { error: `Layer ${number} has maps 0 to ${maps - 1}.` };
    return { url: `${root}layer-${number}/${Number(channel)}.html` };
  }

  function follow(text, replace) {
    const found = address(text);
    byId("jump-said").textContent = found.error || "";
    if (found.url) location[replace ? "replace" : "assign"](found.url);
  }

  document.querySelector(".jump").addEventListener("submit", (event) => { event.preventDefault(); follow(byId("jump").value) });
  if (page.contains("first")) {
    const open = () => { if (location.hash.length > 1) follow(decodeURIComponent(location.hash.slice(1)), true) };
    window.addEventListener("hashchange", open);
    open();
  }

  // --- Theme: as the system's, light, dark

  const themes = ["auto", "light", "dark"];
  function showTheme() { byId("theme").textContent = `Theme: ${document.documentElement.dataset.theme || "auto"}` }
  function turnTheme() {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
    try { if (next === "auto") localStorage.removeItem("zfnet-theme"); else localStorage.setItem("zfnet-theme", next) } catch (error) { /* kept for this page alone */ }
    showTheme();
  }
  byId("theme").addEventListener("click", turnTheme);
  showTheme();

  // --- Tables of units: sorted by any column, downloaded in the order shown

  const COLUMNS = ["layer", "map", "rank", "value", "image", "name", "class", "row", "col", "top", "left", "bottom", "right"];
  const TEXT = new Set(["name", "class"]);
  const SHOWN = { card: ["rank", "value", "row", "col", "name"], map: ["rank", "value", "image", "name", "class", "row", "col", "top", "left", "bottom", "right"],
                  layer: ["map", "rank", "value", "image", "name", "class", "row", "col"] };

  function units(map) {
    return map.value.map((value, n) => {
      const index = map.image[n], [top, left, bottom, right] = map.box[n];
      return { layer: data.layer, map: map.channel, rank: n + 1, value, image: index, name: data.names[index], class: data.classes[data.labels[index]],
               row: map.row[n], col: map.col[n], top, left, bottom, right };
    });
  }

  const cell = (value) => /[",\n\r]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : String(value);
  function csv(rows) { return [COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\n") + "\n" }
  function download(rows, name) {
    const url = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function table(rows, kind, caption, file) {
    const columns = SHOWN[kind], body = make("tbody"), heads = {};
    let order = rows.slice(), sorted = null, down = false;
    function fill() {
      body.replaceChildren(...order.map((row) => {
        const line = make("tr", {}, ...columns.map((name) => {
          const text = name === "value" && kind !== "map" ? three(row.value) : String(row[name]);
          const content = name === "map" ? make("a", { href: `layer-${data.layer}/${row.map}.html` }, text) : text;
          return make("td", { className: TEXT.has(name) ? "text" : "", title: name === "name" ? row.class : "" }, content);
        }));
        line.dataset.rank = row.rank;
        return line;
      }));
    }
    function sort(name) {
      down = sorted === name ? !down : name === "value"; // values: the strongest first
      sorted = name;
      const sign = down ? -1 : 1;
      order = rows.slice().sort((a, b) => sign * (TEXT.has(name) ? a[name].localeCompare(b[name], "en", { numeric: true }) : a[name] - b[name]));
      for (const key of columns) heads[key].setAttribute("aria-sort", key === name ? (down ? "descending" : "ascending") : "none");
      fill();
    }
    for (const name of columns) {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => sort(name));
      heads[name] = make("th", { scope: "col", className: TEXT.has(name) ? "text" : "" }, button);
      heads[name].setAttribute("aria-sort", "none");
    }
    fill();
    const scroll = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("caption", { className: "unseen" }, caption),
      make("thead", {}, make("tr", {}, ...Object.values(heads))), body));
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", caption);
    const button = make("button", { type: "button", className: "csv" }, "Download CSV");
    button.addEventListener("click", () => download(order, file));
    return make("div", { className: "units" }, scroll, button);
  }

  // --- A layer: filters, order, cards or table; the address keeps them

  function layerPage() {
    const tools = byId("tools").elements, cards = byId("cards"), whole = byId("table"), STEPS = 200;
    const maps = new Map(data.maps.map((map) => [map.channel, map]));
    const most = Math.max(...data.maps.map((map) => map.high));
    const card = new Map([...cards.children].map((node) => [Number(node.id), node]));
    const share = (map, label) => (map.classes.find(([kind]) => kind === label) || [0, 0])[1];
    const wanted = () => tools.class.value === "" ? null : Number(tools.class.value);
    const silent = () => Boolean(tools.silent && tools.silent.checked);
    let shown = [], asTable = false;

    const orders = {
      channel: (a, b) => a.channel - b.channel,
      high: (a, b) => b.high - a.high || a.channel - b.channel,
      fires: (a, b) => b.fires - a.fires || a.channel - b.channel,
      class: (a, b) => purity(b) - purity(a) || b.high - a.high || a.channel - b.channel,
    };
    const purity = (map) => wanted() === null ? (map.classes[0] || [0, 0])[1] : share(map, wanted());

    function keep(map) {
      if (!map.alive) return silent() && wanted() === null && tools.from.value === "0";
      const from = most * tools.from.value / STEPS, to = tools.to.value === String(STEPS) ? Infinity : most * tools.to.value / STEPS;
      return map.high >= from && map.high <= to && (wanted() === null ? purity(map) : share(map, wanted())) >= Number(tools.least.value);
    }

    function update(event) {
      if (event && event.target === tools.from && +tools.from.value > +tools.to.value) tools.to.value = tools.from.value;
      if (event && event.target === tools.to && +tools.to.value < +tools.from.value) tools.from.value = tools.to.value;
      byId("least-said").value = tools.least.value;
      byId("from-said").value = three(most * tools.from.value / STEPS);
      byId("to-said").value = three(most * tools.to.value / STEPS);
      shown = data.maps.filter(keep).sort(orders[tools.sort.value]);
      const visible = new Set(shown);
      for (const map of data.maps) {
        const node = card.get(map.channel), line = node.querySelector("header p"), [label, n] = wanted() === null ? map.classes[0] || [] : [wanted(), purity(map)];
        node.hidden = !visible.has(map);
        if (line && !node.hidden) line.textContent = `${data.classes[label]} ${n}/${map.alive}`;
      }
      const order = shown.map((map) => card.get(map.channel)), there = [...cards.children].filter((node) => !node.hidden);
      if (order.some((node, n) => node !== there[n])) cards.append(...order);
      cards.hidden = asTable;
      whole.hidden = !asTable;
      byId("view").setAttribute("aria-pressed", asTable);
      if (asTable) whole.replaceChildren(table(shown.flatMap(units), "layer", `The nine units of ${shown.length} maps`, `layer-${data.layer}.csv`));
      byId("count").textContent = shown.length ? `${shown.length} of ${data.maps.length} maps` : "No map is like this: loosen a filter, or clear them all.";
      if (event) remember();
    }

    const defaults = { class: "", least: "1", from: "0", to: String(STEPS), sort: "channel" };
    function remember() {
      const state = new URLSearchParams();
      for (const [name, value] of Object.entries(defaults)) if (tools[name].value !== value) state.set(name, tools[name].value);
      if (silent()) state.set("silent", "1");
      if (asTable) state.set("view", "table");
      try { history.replaceState(null, "", state.size ? `#${state}` : location.pathname) } catch (error) { /* some browsers forbid it for files */ }
    }
    function recall() {
      const text = decodeURIComponent(location.hash.slice(1));
      const state = new URLSearchParams(/=/.test(text) ? text : "");
      for (const [name, value] of Object.entries(defaults)) tools[name].value = state.get(name) ?? value;
      for (const name of ["class", "sort"]) if (tools[name].selectedIndex < 0) tools[name].value = defaults[name];
      if (tools.silent) tools.silent.checked = state.has("silent") || (maps.has(Number(text)) && text !== "" && !maps.get(Number(text)).alive);
      asTable = state.get("view") === "table";
      update();
      if (text !== "" && card.has(Number(text))) {
        card.get(Number(text)).scrollIntoView({ block: "center" });
        card.get(Number(text)).focus({ preventScroll: true }); // the card itself, as the browser does once the page is loaded
      }
    }

    byId("tools").addEventListener("input", update);
    byId("tools").addEventListener("submit", (event) => event.preventDefault());
    byId("tools").addEventListener("reset", () => setTimeout(() => { asTable = false; update(); remember() }));
    byId("view").addEventListener("click", () => { asTable = !asTable; update(); remember() });
    byId("csv").addEventListener("click", () => download(shown.flatMap(units), `layer-${data.layer}.csv`));
    cards.addEventListener("toggle", (event) => {
      const node = event.target, number = Number(node.closest(".card").id);
      if (node.open && node.childElementCount === 1) node.append(table(units(maps.get(number)), "card", `Nine units of layer ${data.layer}, map ${number}`, `layer-${data.layer}-map-${number}.csv`));
    }, true);
    window.addEventListener("hashchange", recall);
    recall();
    byId("filters").open = !matchMedia("(max-width: 40rem)").matches || /=/.test(location.hash);

    return function step(by) {
      const links = asTable ? [...whole.querySelectorAll("tbody a")] : [...cards.querySelectorAll(".card:not([hidden]) h2 a")];
      const here = document.activeElement.closest(".card"), at = links.indexOf(here ? here.querySelector("h2 a") : document.activeElement), next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
      if (next) { next.focus(); (next.closest(".card") || next).scrollIntoView({ block: "nearest" }) }
    };
  }

  // --- A map: its images, its table

  function channelPage() {
    const images = document.querySelector(".images"), choices = [...document.querySelectorAll("[name=overlay]")], [map] = data.maps;
    byId("own") && byId("own").append(table(units(map), "map", `Nine units of layer ${data.layer}, map ${map.channel}`, `layer-${data.layer}-map-${map.channel}.csv`));
    const choose = (value) => { images.className = `images ${value}`; try { sessionStorage.setItem("zfnet-overlay", value) } catch (error) { /* this page alone */ } };
    for (const choice of choices) choice.addEventListener("change", () => choose(choice.value));
    try {
      const kept = choices.find((choice) => choice.value === sessionStorage.getItem("zfnet-overlay"));
      if (kept) { kept.checked = true; choose(kept.value) }
    } catch (error) { /* as it is */ }
    return {
      turn() {
        const next = choices[(choices.findIndex((choice) => choice.checked) + 1) % choices.length];
        if (next) { next.checked = true; choose(next.value) }
      },
      unit(n) {
        const node = byId(`unit-${n}`);
        if (!node) return;
        node.focus();
        for (const line of document.querySelectorAll("#own tr")) line.classList.toggle("chosen", line.dataset.rank === String(n));
      },
    };
  }

  const step = page.contains("layer") && layerPage(), own = page.contains("channel") && channelPage();

  // --- Keys

  const dialog = byId("keys");
  byId("help").addEventListener("click", () => dialog.showModal());
  const go = (url) => { if (url) location.assign(url) };
  function layer(by) {
    const numbers = Object.keys(site.layers), at = data ? numbers.indexOf(String(data.layer)) : by > 0 ? -1 : numbers.length;
    if (numbers[at + by]) go(`${root}layer-${numbers[at + by]}.html`);
  }
  function turn(by) {
    const link = document.querySelector(by > 0 ? "a[rel=next]" : "a[rel=prev]");
    if (step) step(by); else if (link) go(link.href);
  }
  const keys = {
    ArrowRight: () => turn(1), ArrowLeft: () => turn(-1), j: () => turn(1), k: () => turn(-1), "]": () => layer(1), "[": () => layer(-1),
    Enter: () => step && document.activeElement.matches(".card") && go(document.activeElement.querySelector("a").href), u: () => go(own ? `${root}layer-${data.layer}.html#${data.maps[0].channel}` : step ? `${root}index.html` : null),
    g: () => byId("jump").select(), "/": () => byId("jump").select(), t: turnTheme, "?": () => dialog.showModal(), o: () => own && own.turn(),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, .scroll") || dialog.open;
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = keys[event.key] || (own && /^[1-9]$/.test(event.key) && (() => own.unit(event.key)));
    if (does && !(event.key === "Enter" && !event.target.matches(".card"))) { event.preventDefault(); does() }
  });
})();
