"""Many runs on a few processes. Finished runs are skipped, interrupted ones go on, a failed one does not stop the rest."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.run_folder import RunFolder, open_run


def execute(spec: RunSpec, runs: Path) -> None:
    """One run to its end, in this process. Raises InputError or RunError, both with the run's name in front."""
    try:
        with open_run(spec.folder(runs), spec.config, wait_seconds=2.0) as folder:
            if not folder.is_finished(spec.config):
                Experiment(spec.experiment).runner()(
                    spec.settings, spec.seed, folder, lambda line: print(f"{spec.name}: {line}", flush=True)
                )
    except (InputError, RunError) as error:
        raise type(error)(f"{spec.name}: {error}") from error
    except KeyboardInterrupt:  # a stop signal, after its checkpoint: no other run may begin here
        os._exit(130)


def _prepare_worker(parent: int, threads: int) -> None:
    """So many threads, and no life after the parent: a killed sweep must not leave runs that hold their folders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent passes it on as SIGTERM
    import torch

    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def sweep(specs: list[RunSpec], runs: Path, jobs: int, threads: int = 1) -> None:
    """Execute all runs, `jobs` at a time with `threads` each (on a CPU, another number of threads gives other bits). Raises InputError at once for bad input, RunError at the end for failed runs."""
    if jobs < 1:
        raise InputError(f"jobs: {jobs} is not allowed; at least 1")
    if specs:
        Experiment(specs[0].experiment).check(specs)
    waiting = [spec for spec in specs if not RunFolder(spec.folder(runs)).is_finished(spec.config)]
    if len(waiting) < len(specs):
        print(f"{len(specs) - len(waiting)} of {len(specs)} runs are finished already and are kept")
    failed: list[str] = []
    started = time.monotonic()
    # Large freed blocks go back to the allocator, not to the kernel: up to a third faster for full-batch steps.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**33))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, max(1, len(waiting))), context, _prepare_worker, (os.getpid(), threads)) as pool:
        futures = {pool.submit(execute, spec, runs): spec for spec in waiting}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                if isinstance(error := future.exception(), RunError):
                    failed.append(str(error))
                    print(f"FAILED {error}", flush=True)
                    continue
                future.result()
                elapsed = (time.monotonic() - started) / 60
                left = elapsed / done * (len(waiting) - done)
                name = futures[future].name
                print(f"[{done}/{len(waiting)}] {name} finished; {elapsed:.1f} min so far, about {left:.1f} min left", flush=True)
        except BrokenProcessPool as error:
            raise RunError("a run's process was ended from outside; the same command goes on from its last checkpoint") from error
        except BaseException:  # bad input, a stop signal: what runs now writes its checkpoint and ends, nothing new starts
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    if failed:
        raise RunError(f"{len(failed)} of {len(waiting)} runs failed; first: {failed[0]}")
