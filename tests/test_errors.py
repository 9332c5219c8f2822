"""Exceptions that come out of other processes are what they were there."""

import pickle

import pytest

from crnn.errors import DataError, ImageError, MissingExtraError


@pytest.mark.parametrize(
    "error",
    [
        DataError("what is wrong"),
        ImageError("a.png: cut short", reason="truncated"),
        MissingExtraError("lmdb", "data", "reading"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_they_come_over_a_process_border_with_everything(error):
    error.add_note("Traceback of the worker")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert again.__notes__ == ["Traceback of the worker"]
