"""Profiles say what is wrong with them."""

from __future__ import annotations

import pytest

from zfnet import Profile, load_profile, plots, profile_names


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


def test_a_misspelt_profile_is_guessed():
    with pytest.raises(FileNotFoundError, match=r"no profile 'dmo'. Did you mean 'demo'\?"):
        load_profile("dmo")


def test_figures_and_tables_go_elsewhere_where_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path / "project")
    profile = Profile("p", "P")
    assert profile.figures == tmp_path / "project" / "Figures" / "p"
    monkeypatch.setenv("ZFNET_FIGURES", str(tmp_path / "other"))
    assert plots.save_table([{"a": 1}], profile, "t") == tmp_path / "other" / "p" / "t.csv"
    assert not (tmp_path / "project").exists() and (
        tmp_path / "other" / "p" / "t.csv"
    ).read_text().endswith("a\n1\n")
