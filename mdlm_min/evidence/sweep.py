"""Many runs on a few processes. Finished runs are skipped, interrupted ones resume, a failed one does not stop the rest."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.progress import Display, open_display
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.run.signals import on_stop_signals


def execute(spec: RunSpec, runs: Path, progress: Callable[[str], None] = print) -> None:
    """One run to its end, in this process. Raises InputError or RunError, both with the run's name in front."""
    try:
        with open_run(spec.folder(runs), spec.config, wait_seconds=2.0) as folder:
            if not folder.is_finished(spec.config):
                Experiment(spec.experiment).runner()(spec.settings, spec.seed, folder, progress)
    except (InputError, RunError) as error:
        raise type(error)(f"{spec.name}: {error}") from error


_news: Connection  # of a worker: where its progress goes


def _prepare_worker(parent: int, news: Connection) -> None:
    """Ctrl-C is left to the parent, which passes it on as SIGTERM. A worker does not outlive its parent, or it would go on
    holding its run folder."""
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _execute_in_worker(spec: RunSpec, runs: Path) -> None:
    try:
        execute(spec, runs, partial(_tell, spec.name))
    except KeyboardInterrupt:  # a stop signal, after its checkpoint: no other run may begin here
        os._exit(130)


def _tell(run: str, text: str) -> None:
    """One short message: the system writes it to the pipe whole, so workers need no lock, which one that is killed could keep."""
    with suppress(OSError):  # the parent is gone, and this process will be in a moment
        _news.send_bytes(json.dumps([run, text[:300]]).encode())


@contextmanager
def _worker_environment(threads: int) -> Iterator[None]:
    """What workers, and the helper process of their pool, find set before they import anything."""
    changes = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # When a second Ctrl-C ends the parent at once, multiprocessing's own helper cleans up behind it, and need not say so.
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"])),
        # Large freed blocks go back to the allocator, not to the kernel: up to a third faster for full-batch steps.
        "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", str(2**32)),
        "MALLOC_TRIM_THRESHOLD_": os.environ.get("MALLOC_TRIM_THRESHOLD_", str(2**33)),
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits, and in processes that start here until they ignore it."""
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def check_jobs(jobs: int) -> None:
    """Raise InputError for a number of runs at a time that is none."""
    if jobs < 1:
        raise InputError(f"jobs: {jobs} is not allowed; at least 1")


def sweep(specs: list[RunSpec], runs: Path, jobs: int, threads: int = 1) -> None:
    """Execute all runs, `jobs` at a time with `threads` each (on a CPU, another number of threads gives other bits).

    Raises InputError at once for bad input, RunError at the end for failed runs, and KeyboardInterrupt after a stop signal, when
    the running runs have written their checkpoints.
    """
    check_jobs(jobs)
    if specs:
        Experiment(specs[0].experiment).check(specs)
    waiting = [spec for spec in specs if not RunFolder(spec.folder(runs)).is_finished(spec.config)]
    if len(waiting) < len(specs):
        print(f"{len(specs) - len(waiting)} of {len(specs)} runs are finished already and are kept")
    if not waiting:
        return
    stop = threading.Event()
    context = multiprocessing.get_context("spawn")
    news, end_of_workers = context.Pipe(duplex=False)
    with (
        news,
        end_of_workers,
        on_stop_signals(stop.set),
        open_display(len(waiting)) as display,
        _worker_environment(threads),
        ProcessPoolExecutor(min(jobs, len(waiting)), context, _prepare_worker, (os.getpid(), end_of_workers)) as pool,
    ):
        try:
            with _interrupts_held_back():  # processes start here, and a signal to the group may end the first ones
                futures = {pool.submit(_execute_in_worker, spec, runs): spec.name for spec in waiting}
            failed = _follow(futures, news, display, stop)
        except BaseException as error:  # running runs write their checkpoints and end, nothing new starts
            if stop.is_set():
                display.stopping()
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            if stop.is_set():
                raise KeyboardInterrupt from error
            if isinstance(error, BrokenProcessPool):
                why = "a run's process was ended from outside; the same command resumes from its last checkpoint"
                raise RunError(why) from error
            raise
    if failed:
        raise RunError(f"{len(failed)} of {len(waiting)} runs failed; first: {failed[0]}")


def _follow(futures: dict[Future[None], str], news: Connection, display: Display, stop: threading.Event) -> list[str]:
    """Show what comes from the workers until all runs have ended; returns the messages of those that failed."""
    failed: list[str] = []
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0)
        while not stop.is_set() and news.poll(0.0 if done else 0.1):  # what a run said comes before that it has ended
            display.update(*json.loads(news.recv_bytes()))
        if stop.is_set():
            raise KeyboardInterrupt
        for future in done:
            name = futures[future]
            if isinstance(error := future.exception(), RunError):
                failed.append(str(error))
                display.end(name, f"FAILED: {str(error).removeprefix(f'{name}: ')}")
            else:
                future.result()
                display.end(name, "finished")
    return failed
