"""Signals as a wish to end, and handlers as they were before."""

import os
import signal
import threading

import pytest

from crnn.terminal import signals_collected

WANTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", WANTED)
def test_a_signal_is_collected_and_the_old_handler_comes_back(number):
    before = {each: signal.getsignal(each) for each in WANTED}
    with signals_collected() as caught:
        assert not caught
        os.kill(os.getpid(), number)
        assert caught == [number]
    assert {each: signal.getsignal(each) for each in WANTED} == before


@pytest.mark.parametrize(("number", "rank", "answered"), [(2, "0", True), (2, "1", False), (15, "0", False)])
def test_ctrl_c_is_answered_by_one(number, rank, answered, capfd, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    with signals_collected():
        os.kill(os.getpid(), number)
    assert capfd.readouterr().err.count("Ctrl-C again ends at once") == answered


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not():
    before = signal.getsignal(signal.SIGINT)
    with signals_collected() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM] * 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_closed_terminal_is_nothing_to_a_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_collected() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_nothing_is_changed():
    before = {each: signal.getsignal(each) for each in WANTED}
    inside = []

    def look():
        with signals_collected() as caught:
            inside.append((caught, {each: signal.getsignal(each) for each in WANTED}))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [([], before)]
