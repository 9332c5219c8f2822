"""Command lines, run here and in a process of their own."""

import os
import subprocess
import sys

import pytest

from crnn.cli import main


@pytest.fixture
def run(capsys, one_thread):
    """A function that runs a command line and gives status, stdout and stderr."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def in_process():
    """A function that runs ``python ARGUMENTS`` to its end."""

    def call(*arguments, env=None, **options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, **{"capture_output": True, "text": True, "env": environment, **options})

    return call
