"""Profiles say what is wrong with them; artefacts are whole or absent, and never stale; the CLI
answers in one line.
"""

from __future__ import annotations

import subprocess

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from tools.clean_notebook import clean
from zfnet import Deconvnet, TopActivations, load_profile, plots, profile_names, receptive_field
from zfnet.cli.main import main
from zfnet.data.images import Images
from zfnet.data.shapes import CLASSES, make_shapes
from zfnet.experiments.filters.figure import filters_figure
from zfnet.models.zfnet import ZFNet
from zfnet.plots import saving
from zfnet.store import artefacts, keys, provenance
from zfnet.store.profiles import Profile


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_project_loads(name):
    assert load_profile(name).name == name


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("title: T\ntrainign: {}", ValueError, "unknown key 'trainign'; did you mean 'training'"),
        (
            "title: T\ndata: {siez: 3}",
            ValueError,
            "p.yaml: data: unknown key 'siez'; did you mean 'size'",
        ),
        (
            "title: T\ndata: {size: big}",
            TypeError,
            "p.yaml: data: size = 'big': expected int, got str",
        ),
        ("title: T\ndata: {size: true}", TypeError, "expected int, got bool"),
        ("title: T\ndata: {size: -3}", ValueError, "data.size = -3: must be positive"),
        (
            "title: T\ndata: {size: 64, resize: 60}",
            ValueError,
            "data.size = 64 is larger than data.resize = 60",
        ),
        (
            "title: T\nmodel: {name: resnet}",
            ValueError,
            "model: name = 'resnet': choose one of zfnet",
        ),
        ("title: T\nmodel: {fc: 3}", TypeError, "fc = 3: expected a list"),
        ("title: T\nmodel: {dropout: 1.5}", ValueError, "model.dropout = 1.5"),
        ("title: T\ntraining: {lr: .nan}", ValueError, "training.lr = nan: must be positive"),
        (
            "title: T\ndata: {validation: 2.0}",
            ValueError,
            (
                "data.validation = 2.0: must be at least 0 .none: the last epoch is kept. and less"
                " than 1"
            ),
        ),
        (
            "title: T\ndata: {validation: 0}",
            ValueError,
            "data.validation = 0 leaves nothing for scan_split: val",
        ),
        (
            "title: T\nnotebooks: [99_none]",
            ValueError,
            r"notebooks = \['99_none'\]: choose from 00_transposed",
        ),
        ("title: T\nocclusion: {size: 500}", ValueError, "occlusion.size = 500 does not fit"),
        ("seed: 1", ValueError, "missing title"),
        ("- a list", TypeError, "expected keys and values, got list"),
        ("title: !!python/object/apply:os.getcwd []", ValueError, "not plain YAML"),
    ],
)
def test_a_bad_profile_is_named(tmp_path, text, error, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(error, match=message):
        load_profile(tmp_path / "p.yaml")


def test_a_code_version_is_of_the_code_that_it_names(tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "__file__", str(tmp_path / "provenance.py"))
    keys = []
    for limit, step, doc in ((1, 1, "A."), (1, 1, "B."), (1, 2, "A."), (2, 1, "A.")):
        (tmp_path / "m.py").write_text(
            f'LIMIT = {limit}\n\ndef f():\n    """{doc}"""\n    return {step}  # {doc}\n\nclass'
            " G:\n    pass\n"
        )
        keys.append([keys.code_version(name) for name in ("m", "m:f", "m:LIMIT,G")])
    assert keys[0] == keys[1]  # prose does not count
    assert [a == b for a, b in zip(keys[0], keys[2], strict=True)] == [False, False, True]
    assert [a == b for a, b in zip(keys[0], keys[3], strict=True)] == [False, True, False]
    with pytest.raises(KeyError):
        keys.code_version("m:gone")


def test_a_misspelt_profile_is_guessed():
    with pytest.raises(FileNotFoundError, match="no profile 'dmo'. Did you mean 'demo'?"):
        load_profile("dmo")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), artefacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_artefacts_are_found_rebuilt_when_stale_and_rebuilt_when_damaged(tmp_path):
    path, built = tmp_path / "x.safetensors", []

    def build():
        built.append(1)
        return {"t": torch.tensor([len(built)])}, {"n": len(built)}

    assert artefacts.artefact(path, "a", build)[0]["t"].item() == 1
    assert artefacts.artefact(path, "a", build) == ({"t": torch.tensor([1])}, {"n": 1, "key": "a"})
    assert artefacts.artefact(path, "b", build)[1]["n"] == 2
    path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(
        UserWarning, match="x.safetensors is not a readable safetensors file .*: it is made again"
    ):
        assert artefacts.artefact(path, "b", build)[1]["n"] == 3 and len(built) == 3


def test_keys_tell_everything_apart():
    keys = [
        keys.key_of(*parts)
        for parts in (
            (1, 2),
            (2, 1),
            ("1", 2),
            ([1, 2],),
            (Profile("a", "t"),),
            (Profile("a", "t", seed=1),),
        )
    ]
    assert len(set(keys)) == len(keys) and keys[0] == keys.key_of(1, 2)
    a = {"w": torch.zeros(2, 3)}
    variants = [
        a,
        {"v": a["w"]},
        {"w": torch.zeros(3, 2)},
        {"w": torch.zeros(2, 3).double()},
        {"w": torch.full((2, 3), 1e-30)},
    ]
    assert len({keys.tensors_hash(v) for v in variants}) == 5


def test_the_code_version_sees_code_and_not_prose(tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "__file__", str(tmp_path / "provenance.py"))
    versions = []
    bare = "def f(x):\n    return x + 1\n"
    prose = '"""Doc."""\ndef f(x):  # why\n\n    """D."""\n    return x + 1\n'
    other = bare.replace("1", "2")
    for text in (prose, bare, other):
        (tmp_path / "m.py").write_text(text)
        versions.append(keys.code_version("m"))
    assert versions[0] == versions[1] != versions[2]


def test_the_code_version_does_not_depend_on_the_version_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "__file__", str(tmp_path / "provenance.py"))
    (tmp_path / "m.py").write_text(
        "@wrap\nclass A(B):\n    x: int = 1\n\n    def f(self, *a, b=[], **c):\n        return [g()"
        " for g in a if g]\n"
    )
    assert keys.code_version("m") == "8d07d52357582fda"  # as Python 3.11 has it


def test_one_contrast_rule_by_hand():
    picture = plots.to_grey_centred(
        torch.tensor([-4.0, -1, 0, 2]).view(4, 1, 1, 1).expand(4, 3, 1, 1), 2.0
    )
    assert picture[:, 0, 0, 0].tolist() == [0.0, 0.25, 0.5, 1.0]
    found = torch.randn(9, 3, 20, 20)
    found[:, :, :10] = 0
    assert plots.contrast_scale(found) == pytest.approx(
        np.percentile(found[:, :, 10:].abs().numpy(), plots.PERCENTILE)
    )
    assert plots.contrast_scale(torch.zeros(3, 4, 4)) == 1.0


def test_patches_are_the_receptive_field_white_beyond_the_border():
    features = ZFNet(10, fc=(8, 8)).features
    field = receptive_field(features, "relu2", 64)
    picture = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32) * 0.9
    middle = plots.crop_field(picture, field, 3, 2)
    top, left, bottom, right = field.box(3, 2)
    assert middle.shape == (27, 27, 3) and np.array_equal(middle, picture[top:bottom, left:right])
    corner = plots.crop_field(picture, field, 0, 0)
    assert (
        (corner[0] == 1).all()
        and (corner[:, 0] == 1).all()
        and np.array_equal(corner[1:, 1:], picture[:26, :26])
    )


@pytest.mark.parametrize("layer", ["relu1", "relu2", "relu5"])
def test_tiles_are_cut_from_the_projection_of_the_whole_image(layer):
    """Corner, border and middle units, fields smaller and larger than the image: as `crop_field` of
    a full-size projection shows them.
    """
    torch.manual_seed(0)
    features, drawn = (
        ZFNet(10, maps=(8, 8, 8, 8, 8), input_size=112, fc=()).eval().features,
        make_shapes(9, 112),
    )
    images = Images(
        drawn.images,
        drawn.labels,
        CLASSES,
        112,
        torch.full((3, 1, 1), 120.0),
        torch.full((3, 1, 1), 60.0),
        6.0,
    )
    deconvnet, field = Deconvnet(features), receptive_field(features, layer, 112)
    maps = deconvnet.activations(images.batch(range(9)), layer)
    # one that fires almost everywhere
    channel = int(maps.amin(0).clamp_min(0).sum((1, 2)).argmax())
    last = field.map_size[0] - 1
    units = [
        (0, 0),
        (0, last),
        (last, 0),
        (last, last),
        (0, 1),
        (last // 2, 0),
        (1, last),
        (last // 2, last // 2),
        (last, 2),
    ]
    row, col = (x[None].expand(8, 9) for x in torch.tensor(units).unbind(1))
    top = TopActivations(torch.ones(8, 9), torch.arange(9).expand(8, 9), row, col)
    (tiles,), _ = plots.top9_tiles(deconvnet, images, layer, top, torch.tensor([channel]))
    whole = deconvnet.project(
        images.batch(range(9)), layer, channel, torch.stack([row[0], col[0]], 1), windows=False
    )
    pictures = plots.to_grey_centred(whole, plots.contrast_scale(whole))
    shown = 0
    for i, tile in enumerate(tiles):
        unit = int(row[0, i]), int(col[0, i])
        assert np.allclose(tile, plots.crop_field(pictures[i], field, *unit), atol=1e-4)
        shown += bool((np.abs(tile - 0.5) > 1e-3)[tile < 1].any())
    assert shown >= 5


def test_mosaic_by_hand():
    tiles = [np.full((1, 2, 3), i / 10, np.float32) for i in range(3)]
    expected = [[0, 0, 1, 0.1, 0.1], [1, 1, 1, 1, 1], [0.2, 0.2, 1, 1, 1]]
    assert np.allclose(plots.mosaic(tiles, 2)[..., 0], expected)


def test_figures_are_byte_equal_and_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile, found = Profile("p", "P"), []
    for name in "ab":
        figure = filters_figure(
            torch.randn(96, 3, 7, 7, generator=torch.Generator().manual_seed(0)), "Filters"
        )
        found.append(plots.save_figure(figure, profile, name).read_bytes())
        plt.close(figure)
    assert found[0] == found[1]
    assert saving.LIMIT < 500_000
    # a tenth, so that noise of a tenth of a page is too large even in 256 colours
    monkeypatch.setattr(saving, "LIMIT", 49_000)
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.imshow(np.random.default_rng(0).random((300, 400, 3)))
    path = plots.save_figure(figure, profile, "noise")
    assert path.stat().st_size < 49_000
    with Image.open(path) as reduced:
        assert reduced.width < 0.9 * 4 * 110  # fewer dots, too
    plt.close(figure)


def test_figures_and_tables_go_elsewhere_where_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path / "project")
    profile = Profile("p", "P")
    assert profile.figures == tmp_path / "project" / "Figures" / "p"
    monkeypatch.setenv("ZFNET_FIGURES", str(tmp_path / "other"))
    assert plots.save_table([{"a": 1}], profile, "t") == tmp_path / "other" / "p" / "t.csv"
    assert not (tmp_path / "project").exists() and (
        tmp_path / "other" / "p" / "t.csv"
    ).read_text().endswith("a\n1\n")


def test_the_command_line_answers_in_one_line(capsys):
    assert main(["train", "dmo"]) == 1
    out = capsys.readouterr()
    assert (
        out.err.startswith("error: no profile 'dmo'") and out.err.count("\n") == 1 and not out.out
    )
    assert main(["notebooks", "vgg19"]) == 0
    assert capsys.readouterr().out.split() == list(load_profile("vgg19").notebooks)


def test_notebooks_are_cleaned_for_committing(tmp_path):
    cell = nbformat.v4.new_code_cell
    output = nbformat.v4.new_output("execute_result", {"text/plain": "3"}, execution_count=7)
    injected = cell("profile = 'x'", execution_count=2, metadata={"tags": ["injected-parameters"]})
    bar = nbformat.v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "100%"}
    )
    pieces = [
        nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n")
    ]
    cells = [cell("a", execution_count=1, outputs=[bar, *pieces]), injected]
    cells.append(
        cell(
            "1 + 2",
            execution_count=7,
            outputs=[output],
            metadata={"execution": {"shell.execute_reply": "2026"}},
        )
    )
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"path": "/somewhere"}})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    clean(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    found = nbformat.read(tmp_path / "b.ipynb", as_version=4)
    assert [c.source for c in found.cells] == ["a", "1 + 2"] and [
        c.execution_count for c in found.cells
    ] == [1, 2]
    assert [output.text for output in found.cells[0].outputs] == ["one\ntwo\n"]
    assert (
        found.cells[1].outputs[0].data["text/plain"] == "3"
        and found.cells[1].outputs[0].execution_count == 2
    )
    assert "papermill" not in found.metadata and not found.cells[1].metadata
    notebook.cells[0].outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="v", traceback=[])
    ]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="code cell 1 failed"):
        clean(tmp_path / "a.ipynb", tmp_path / "b.ipynb")


def test_a_commit_is_dirty_when_the_code_is_and_not_when_figures_are(tmp_path, monkeypatch):
    def git(*words):
        identity = [
            "-c",
            "user.name=Nobody",
            "-c",
            "user.email=nobody@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    module = tmp_path / "src" / "zfnet" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    monkeypatch.setattr(artefacts, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (tmp_path / "Figures").mkdir()
    (tmp_path / "Figures" / "a.csv").write_text("1\n")
    assert provenance.commit() == git("rev-parse", "HEAD")[:10]
    module.write_text("a = 2\n")
    assert provenance.commit() == git("rev-parse", "HEAD")[:10] + "-dirty"
