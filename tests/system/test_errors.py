"""What an error shows where."""

import traceback

import pytest

import leantune
from leantune.system.errors import InputError, LeantuneError, TrainingError


def test_ipython_gets_the_message_that_the_command_line_prints_and_no_traceback():
    with pytest.raises(InputError) as caught:
        leantune.train("no.csv", text="text", target="target", model="demo", output="run")
    assert caught.value._render_traceback_() == [f"leantune: {caught.value}"]
    assert "no.csv" in str(caught.value)


def test_each_line_of_a_message_is_one_and_none_is_a_command_to_the_terminal():
    assert InputError("first\n  \x1b[2Jsecond")._render_traceback_() == ["leantune: first", r"  \x1b[2Jsecond"]


@pytest.mark.parametrize("kind", [LeantuneError, TrainingError])
def test_what_is_not_the_users_keeps_its_traceback_in_ipython(kind):
    assert not hasattr(kind("no"), "_render_traceback_")


def test_a_script_still_gets_the_traceback():
    with pytest.raises(InputError) as caught:
        leantune.train("no.csv", text="text", target="target", model="demo", output="run")
    text = "".join(traceback.format_exception(caught.value))
    assert text.startswith("Traceback (most recent call last)")
    assert "in train" in text
