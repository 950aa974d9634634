"""The command line: what a user can mend is one line, a bug shows its traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from zfnet import load_profile
from zfnet.cli import main as command_line
from zfnet.cli.main import main
from zfnet.store import errors


def test_the_command_line_answers_in_one_line(capsys):
    assert main(["train", "dmo"]) == 1
    out = capsys.readouterr()
    assert (
        out.err.startswith("error: no profile 'dmo'") and out.err.count("\n") == 1 and not out.out
    )
    assert main(["notebooks", "vgg19"]) == 0
    assert capsys.readouterr().out.split() == list(load_profile("vgg19").notebooks)


def failing(monkeypatch, error: BaseException) -> None:
    def fail(_):
        raise error

    monkeypatch.setattr(command_line, "_carry_out", fail)


@pytest.mark.parametrize(
    "error",
    [
        errors.UserError("size = 3", "choose 4"),
        errors.WrongType("size = '3': expected int"),
        errors.Unsupported("features.3 is a Fire"),
        errors.Damaged("a.safetensors", "half of it is gone"),
        errors.Diverged("the loss is no longer finite", "lower `lr`"),
        errors.MissingPackage("captum is not installed", "pip install captum"),
        FileNotFoundError("no weights at a.pth: train first"),
        PermissionError("a.png cannot be written"),
    ],
)
def test_what_can_be_mended_is_one_line_and_a_traceback_when_asked_for(monkeypatch, capsys, error):
    failing(monkeypatch, error)
    assert main(["train", "demo"]) == 1
    assert capsys.readouterr().err == f"error: {error}\n"
    with pytest.raises(type(error)) as caught:
        main(["--traceback", "train", "demo"])
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not enough values to unpack"),
        TypeError("'NoneType' object is not callable"),
        KeyError("relu6"),
        ImportError("cannot import name 'x'"),
        FloatingPointError("nan"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        AssertionError(),
    ],
)
def test_a_bug_shows_its_traceback(monkeypatch, error):
    failing(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        main(["train", "demo"])
    assert caught.value is error


def test_what_runs_out_of_memory_says_what_to_lower(monkeypatch, capsys):
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore")):
        failing(monkeypatch, error)
        assert main(["train", "demo"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: not enough memory (") and "lower `data: size:`" in said
        assert said.count("\n") == 1
        with pytest.raises(type(error)):
            main(["--traceback", "train", "demo"])


def test_an_interruption_is_said_and_no_error(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["train", "demo"]) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command goes on")


@pytest.mark.parametrize("verb", ["results", "times", "clean"])
def test_the_upkeep_of_the_repository_is_no_part_of_it(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "demo"])
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("usage: zfnet ")


@pytest.mark.slow
def test_as_a_module_it_is_the_same_command():
    done = [
        subprocess.run(
            [sys.executable, "-m", "zfnet", *options, "train", "dmo"],
            capture_output=True,
            text=True,
        )
        for options in ([], ["--traceback"])
    ]
    assert [one.returncode for one in done] == [1, 1]
    assert done[0].stderr.startswith("error: no profile 'dmo'") and done[0].stderr.count("\n") == 1
    assert done[1].stderr.startswith("Traceback (most recent call last):")
    assert "FileNotFoundError: no profile 'dmo'" in done[1].stderr.splitlines()[-1]
