import os
import signal
import subprocess
import sys

from launch.slurm.forwarded_signals import FORWARDED, forwarded_signals

PROGRAM = """
import signal
numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
while True:
    print(int(signal.sigwait(numbers)), flush=True)
"""
"""A handler that prints could be interrupted by the next signal in the middle of a line. This program takes one signal
at a time."""


def test_signals_reach_ranks_also_those_that_start_later_and_never_one_that_has_ended() -> None:
    before = [signal.getsignal(number) for number in FORWARDED]
    ranks = []
    with forwarded_signals() as forwarding:
        for _ in range(2):
            rank = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
            ranks.append(rank)
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
            forwarding.add(rank.pid)
            os.kill(os.getpid(), signal.SIGUSR2)
            assert rank.stdout.readline() == f"{signal.SIGUSR2}\n"
        first, second = ranks
        assert first.stdout is not None
        assert second.stdout is not None
        assert first.stdout.readline() == f"{signal.SIGUSR2}\n"  # the second one
        forwarding.remove(first.pid)
        first.kill()
        first.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while second.stdout.readline() != f"{signal.SIGTERM}\n":
            pass  # two signals of one kind may arrive as one
        assert forwarding.received == [signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM]
    second.kill()
    second.wait()
    assert [signal.getsignal(number) for number in FORWARDED] == before
