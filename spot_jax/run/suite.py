"""A suite: many runs, each in a process of its own by the command that one would type: a crash stays there."""

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tqdm import tqdm

from spot_jax.run.jobs import Job, done, is_finished, total
from spot_jax.storage.folder import InUseError, held
from spot_jax.system.errors import ALL_DIVERGED, InputError, printable
from spot_jax.system.workers import STOPS

COMMAND = [sys.executable, '-m', 'spot_jax.main']
POLL = 2.0  # seconds between two looks at how far a run is
SOME_FAILED = 1  # exit status


class Progress:
    """The updates of all runs: a line with their rate and the time left, where somebody can see it."""

    def __init__(self, made: int, total: int):
        self._left, self._made, self._start = total - made, 0, time.monotonic()
        options: dict[str, Any] = {'unit': ' updates', 'disable': not sys.stdout.isatty(), 'smoothing': 0.02}
        self._bar = tqdm(total=total, initial=made, **options)

    def update(self, updates: int) -> None:
        """So many more were made."""
        self._left -= updates
        self._made += updates
        self._bar.update(updates)

    def drop(self, updates: int) -> None:
        """So many are not made any more."""
        self._left -= updates
        self._bar.total -= updates
        self._bar.refresh()

    def left(self) -> str:
        """How long the rest takes at the rate so far, in words."""
        if self._made <= 0:  # fewer than none: a run that goes on from a checkpoint loses what came after it
            return 'an unknown time'
        seconds = (time.monotonic() - self._start) / self._made * self._left
        return f'about {datetime.timedelta(seconds=round(seconds))}'

    def name(self, job: Job) -> None:
        """The line tells of this run."""
        self._bar.set_description(job.name)

    def tell(self, text: str) -> None:
        """A line of its own."""
        self._bar.write(printable(text), file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leaves the line as it is."""
        self._bar.close()


class Suite:
    """Runs jobs one after the other."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs
        self.counted = {job.name: total(job) if is_finished(job) else done(job) for job in jobs}  # updates
        self.progress = Progress(sum(self.counted.values()), sum(map(total, jobs)))
        self.stop_signal = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.failed: list[str] = []
        self.ended = 0

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Has the run that is at work write a checkpoint and stop; a second signal ends the suite, not the run."""
        del frame
        self.stop_signal = number
        signal.signal(number, signal.SIG_DFL)
        if self.process is not None:
            self.process.send_signal(number)

    def stopping(self) -> bool:
        """Whether a signal asked to."""
        return self.stop_signal != 0

    def _start(self, job: Job, log: IO[bytes]) -> None:
        # In a session of its own, so that Ctrl-C comes from here alone: twice, it would end without a checkpoint.
        # It goes on if this process is killed; a suite that is started again waits for it.
        self.process = subprocess.Popen(
            [*COMMAND, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self.stop_signal:  # it came meanwhile
            self.process.send_signal(self.stop_signal)

    def _wait_for_others(self, job: Job) -> None:
        """Waits while another process has the run: an earlier one that stops, another suite or another host."""
        told = False
        while not self.stop_signal and _is_in_use(job):
            if not told:
                self.progress.tell(f'{job.name}: another process is at it, waiting')
            told = True
            time.sleep(POLL)

    def _run(self, job: Job) -> int:
        """Runs a job; returns its exit status. Raises OSError, with no process, if its log cannot be written."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open('ab') as log:
            self._start(job, log)
        self.progress.tell(f'{job.name} is at work, run {self.ended} of {len(self.jobs)}: {job.log}')
        assert self.process is not None
        while self.process.poll() is None:
            time.sleep(POLL)
            self._count(job)
        status = self.process.returncode
        self.process = None
        self._count(job)
        if not self.stop_signal:
            self._drop_rest(job)  # of one that failed, or diverged
        return status

    def _made(self, job: Job) -> int | None:
        """Has a job's run made, by this suite or by whoever has its folder; None: it is finished already."""
        while True:
            self._wait_for_others(job)
            if self.stopping():
                return None
            if is_finished(job):
                self._drop_rest(job)  # another process has made them
                return None
            self.progress.name(job)
            status = self._run(job)
            if status == 0 or self.stopping() or not _is_in_use(job):
                return status

    def _count(self, job: Job) -> None:
        """Counts the updates that the run has made since they were counted last."""
        now = done(job)
        self.progress.update(now - self.counted[job.name])
        self.counted[job.name] = now

    def _drop_rest(self, job: Job) -> None:
        """Counts no more of its updates as those that are to come."""
        self.progress.drop(total(job) - self.counted[job.name])
        self.counted[job.name] = total(job)

    def _tell(self, job: Job, status: int) -> None:
        words = {0: 'finished', ALL_DIVERGED: 'finished, all of its members diverged'}
        if status in words:
            self._end(job, words[status])
        else:
            self._fail(job, f'failed with status {status} ({_last_line(job.log)}; {job.log} tells more)')

    def _fail(self, job: Job, text: str) -> None:
        self.failed.append(job.name)
        self._end(job, text)

    def _end(self, job: Job, text: str) -> None:
        text += f'; {self.ended} of {len(self.jobs)} runs have ended'
        text += f', {self.progress.left()} left' * (self.ended < len(self.jobs))
        self.progress.tell(f'{job.name} {text}')

    def run(self) -> int:
        """Runs all jobs that are not finished; returns 0, 1 if one failed, or 128 + the number of a signal to stop."""
        before = {number: signal.signal(number, self.handle_signal) for number in STOPS}
        try:
            for number, job in enumerate(self.jobs, 1):
                self.ended = number
                try:
                    status = self._made(job)
                except OSError as error:
                    if self.process is not None:  # it is this process whose output cannot be written
                        raise
                    self._drop_rest(job)
                    self._fail(job, f'failed: {error.filename}: {error.strerror}')
                    continue
                if self.stopping():
                    break
                if status is not None:
                    self._tell(job, status)
        finally:
            if self.process is not None:  # this ends by an error of its own, such as an output that is closed
                self.process.terminate()
            self.progress.close()
            for number, old in before.items():
                signal.signal(number, old)
        if self.stop_signal:
            print('stopped: the same command goes on')
            return 128 + self.stop_signal
        print(f'{len(self.jobs) - len(self.failed)} of {len(self.jobs)} runs finished')
        return SOME_FAILED if self.failed else 0


def _is_in_use(job: Job) -> bool:
    """Whether another process has the run's folder."""
    try:
        if job.workdir.is_dir():
            with held(job.workdir):
                pass
    except InUseError:
        return True
    except InputError:
        pass  # the run itself tells of it
    return False


def run(jobs: Sequence[Job]) -> int:
    """Runs a suite, or goes on with it, and prints how each run ended; returns the exit status of `Suite.run`."""
    require_no_two(jobs)
    return Suite(jobs).run()


def require_no_two(jobs: Sequence[Job]) -> None:
    """Raises InputError if two runs have one folder."""
    places = [os.path.realpath(job.workdir) for job in jobs]
    for job, place in zip(jobs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f'{job.workdir} is the folder of several runs of the suite: name each once')


def _last_line(path: Path) -> str:
    """The last line that is no blank; of a long log, of its end."""
    try:
        with path.open('rb') as file:
            file.seek(max(0, path.stat().st_size - 4096))
            text = file.read(4096).decode(errors='replace')
    except OSError as error:
        return f'its log cannot be read: {error.strerror}'
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else 'it printed nothing'
