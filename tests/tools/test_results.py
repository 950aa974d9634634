"""The README's results are read from tables, cell by cell."""

from __future__ import annotations

import shutil

import pytest

from tools import readme
from tools.sections import write_sections
from zfnet.experiments import experiments
from zfnet.store.profiles import ROOT

TABLES = {
    "01_train": (
        "crops,test_error,test_top5_error,per_class_accuracy,n",
        "1,0.3,0.1,0.65,77",
        "10,0.25,0.1,0.7049,77",
    ),
    "13_correspondence": (
        "net,layer,masked,zeros,delta,groups",
        *(
            f"{net},{layer},{part},{zeros},{delta * scale},{7}"
            for net, layer, scale in (
                ("trained", 5, 1),
                ("trained", 7, 2),
                ("random weights", 5, 3),
            )
            for zeros, deltas in {
                "agree": (0.2, 0.1, 0.3, 0.4),
                "both changed": (0.3, 0.15, 0.9, 0.6 / scale),
                "left out": (1, 1, 1, 9),
            }.items()
            for part, delta in zip(("right_eye", "left_eye", "nose", "random"), deltas, strict=True)
        ),
    ),
    "14_ablation": (
        "row,val_change,val_change_std,seeds",
        "alexnet,,,3",
        "alexnet-without-3-4,5.5,0.4,3",
        "alexnet-without-6-7,-1,0,3",
        "alexnet-without-3-4-6-7,31,nan,1",
        "zfnet,-2,1.2,3",
        "zfnet-wide,-0.24,0.5,3",
    ),
    "15_probes": (
        "net,classifier,layer,images_per_class,accuracy,std",
        *(
            f"{net},{kind},{layer},{n},0.{n}{layer},{'nan' if layer == 5 else 0.0123}"
            for net in ("trained", "random weights")
            for kind in ("svm", "softmax")
            for layer in (1, 2, 3, 4, 5, 7)
            for n in (5, 10)
        ),
    ),
    "16_transfer": (
        "data,per_class,pretrained,pretrained_std,scratch,scratch_std",
        "here,3,50,1,20,2",
        "here,30,60.04,1.5,40,3.25",
        "Caltech-101,60,1,1,1,1",
    ),
}


@pytest.fixture
def figures(tmp_path):
    for name, lines in TABLES.items():
        path = tmp_path / "demo" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "\n".join(
                (
                    "# seed: 4",
                    "# torch: 2.0",
                    "# trained: 30 images, 2 epochs on a slide rule",
                    *lines,
                )
            )
            + "\n"
        )
    return tmp_path


def cell(report: str, start: str) -> list[str]:
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {start}")]
    return [part.strip() for part in line.strip("|").split("|")][1:]


def test_every_cell_comes_from_its_row(figures):
    report = readme.results_table(figures)
    assert cell(report, "test accuracy, centre crop") == ["–", "70.0 %"]
    assert cell(report, "test accuracy, ten crops") == ["–", "75.0 %"]
    assert cell(report, "mean over classes") == ["46.5 %", "70.5 %"]
    assert cell(report, "Δ of masking the right eye") == ["0.63", "0.50, 0.50 (7)"]
    assert cell(report, "Δ of masking the left eye") == ["0.64", "0.25, 0.25 (7)"]
    assert cell(report, "Δ of masking the nose") == ["0.74", "0.75, 1.50 (7)"]
    assert cell(report, "ZFNet instead of AlexNet") == ["-2.1", "-2.0 ± 1.2 (3)"]
    assert cell(report, "AlexNet without layers 3, 4:") == ["+4.9", "+5.5 ± 0.4 (3)"]
    assert cell(report, "AlexNet without layers 6, 7") == ["+4.3", "-1.0 ± 0.0 (3)"]
    assert cell(report, "AlexNet without layers 3, 4, 6, 7") == ["+30.8", "+31.0 (1)"]
    assert cell(report, "ZFNet with layers 3, 4, 5") == ["-0.9", "-0.2 ± 0.5 (3)"]
    assert cell(report, "SVM on layer 4") == ["76.6 %", "10.4 ± 1.2 % (10)"] and cell(
        report, "SVM on layer 5"
    ) == ["86.2 %", "10.5 % (10)"]
    assert cell(report, "softmax on pretrained") == ["86.5 %", "60.0 ± 1.5 % (30)"]
    assert cell(report, "the same images from scratch") == ["46.5 %", "40.0 ± 3.2 % (30)"]


def test_the_notes_say_what_the_numbers_were_measured_on(figures, tmp_path):
    expected = "- `demo` (Built-in shapes): seed 4, n = 1 training, 30 images, 2 epochs on a slide"
    assert readme.provenance_notes(figures, tmp_path / "none") == f"{expected} rule; torch 2.0."


def test_nets_that_were_trained_elsewhere_come_first(figures):
    lines = ("# seed: 4", "# torch: 2.0", "# device: a slide rule", *TABLES["15_probes"])
    (figures / "vgg16").mkdir()
    (figures / "vgg16" / "15_probes.csv").write_text("\n".join(lines))
    report = readme.results_table(figures)
    assert report.startswith("| what | paper | vgg16 | demo |")
    assert cell(report, "SVM on layer 4") == ["76.6 %"] + ["10.4 ± 1.2 % (10)"] * 2
    assert cell(report, "test accuracy, ten") == ["–", "–", "75.0 %"]
    first = readme.provenance_notes(figures).splitlines()[0]
    title = "VGG16 (ImageNet weights)"
    assert first == f"- `vgg16` ({title}): seed 4, nothing trained; a slide rule; torch 2.0."


def test_the_time_of_a_training_is_that_of_its_machine(figures, tmp_path):
    (tmp_path / "times.json").write_text(
        '{"demo": {"an abacus": {"training": 5}, "a slide rule": {"training": 8.4}}, "photos": {"a'
        ' slide rule": {}}}'
    )
    notes = readme.provenance_notes(figures, tmp_path / "times.json")
    assert "2 epochs on a slide rule, 8 s; torch 2.0." in notes


def test_the_headline_is_five_of_the_rows_one_of_each_experiment(figures):
    every = readme.results_table(figures).splitlines()
    headline = readme.results_table(figures, headline=True).splitlines()
    assert headline[:2] == every[:2] and set(headline) < set(every) and len(headline) == 2 + 5
    chosen = [each for one in experiments().values() for each in one.results() if each.headline]
    assert len({each.notebook for each in chosen}) == 5


def test_a_table_that_is_not_there_leaves_its_cells_empty(figures):
    (figures / "demo" / "14_ablation.csv").unlink()
    report = readme.results_table(figures)
    assert cell(report, "ZFNet instead of AlexNet") == ["-2.1", "–"] and cell(
        report, "SVM on layer 4"
    ) == ["76.6 %", "10.4 ± 1.2 % (10)"]


def test_what_has_no_deviation_and_what_cannot_be_divided(figures):
    for name, old, new in (
        ("16_transfer", "60.04,1.5", "60.04,nan"),
        ("13_correspondence", "trained,5,random,agree,0.4", "trained,5,random,agree,0.0000"),
    ):
        path = figures / "demo" / f"{name}.csv"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    assert cell(readme.results_table(figures), "softmax on pretrained") == ["86.5 %", "60.0 % (30)"]
    assert cell(readme.results_table(figures), "Δ of masking the nose") == ["0.74", "–, 1.50 (7)"]


def test_a_net_with_fewer_layers_leaves_its_cells_empty(figures):
    path = figures / "demo" / "15_probes.csv"
    path.write_text(
        "\n".join(line for line in path.read_text().splitlines() if ",7," not in line) + "\n"
    )
    assert (
        cell(readme.results_table(figures), "SVM on layer 7") == ["85.5 %", "–"]
        and cell(readme.results_table(figures), "SVM on layer 4")[1] != "–"
    )


def test_a_row_that_is_not_there_is_an_error(figures):
    path = figures / "demo" / "01_train.csv"
    path.write_text(path.read_text().replace("\n10,", "\n5,"))
    with pytest.raises(KeyError, match=r"0 rows with \{'crops': '10'\}"):
        readme.results_table(figures)


def test_the_pages_are_written_between_their_marks(tmp_path, monkeypatch, capsys):
    for name in ("README.md", "docs/results.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    texts = readme.sections()
    monkeypatch.setattr(readme, "sections", lambda: texts)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    readme.main([])
    page = tmp_path / "docs" / "results.md"
    written = page.read_text()
    assert texts["docs/results.md"]["results"] in written
    assert texts["README.md"]["headline"] in (tmp_path / "README.md").read_text()
    page.write_text(written.replace(texts["docs/results.md"]["results"], "| stale |"))
    capsys.readouterr()
    readme.main([])
    assert capsys.readouterr().out == (
        "README.md: nothing to change\ndocs/results.md: written anew\n"
    )
    assert page.read_text() == written


def test_sections_are_replaced_and_the_rest_is_left_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "é\n<!-- a: begin -->\nold\n<!-- a: end -->\nbetween\n<!-- b b: begin -->\n<!-- b b: end"
        " -->\nend",
        encoding="utf-8",
    )
    assert write_sections(page, {"b b": "two\nlines", "a": "new"})
    expected = (
        "é\n<!-- a: begin -->\nnew\n<!-- a: end -->\nbetween\n<!-- b b: begin -->\ntwo\nlines\n<!--"
        " b b: end -->\nend"
    )
    assert page.read_text(encoding="utf-8") == expected
    assert not write_sections(page, {"a": "new"})


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        "<!-- a: begin -->",
        "<!-- a: end --> <!-- a: begin -->",
        "<!-- a: begin --> <!-- a: begin --> <!-- a: end -->",
    ],
)
def test_missing_marks_are_named_and_nothing_is_written(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(f"{text}\n<!-- b: begin -->\n<!-- b: end -->")
    before = page.read_text()
    with pytest.raises(
        ValueError,
        match=r"page\.md: expected the lines <!-- a: begin --> and <!-- a: end -->, once each",
    ):
        write_sections(page, {"b": "new", "a": "new"})
    assert page.read_text() == before
