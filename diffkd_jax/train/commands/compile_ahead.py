"""Compiles the first programs of a training while other work is done."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from ...backend.compilation_cache import traces_folder
from ..batches import sample_batch
from ..run import Run


def compile_ahead(run: Run) -> Run:
    """Starts to compile a run's initialisation and step, in a thread.

    The compiler and the reading of compiled programs do not hold Python's lock. So the
    caller can describe the run and score the teacher meanwhile. It gains 1.0 s of a
    warm start of ``quickstart`` (``experiments/bench/first_step.py``). Python code of
    models and tasks is traced before this function returns, in the caller's thread. The
    compiler cannot be interrupted, so a process that is stopped meanwhile ends when the
    compiler is done.

    Args:
      run: the run, its teacher loaded.

    Returns:
      The run. Its ``init`` and ``step`` wait for their programs. It is the same run if
      there are several processes, or no folder for traced programs.
    """
    if traces_folder() is None or jax.process_count() > 1:
        return run
    # A second thread would gain no time, and take 0.1 GiB more.
    thread = ThreadPoolExecutor(1, "diffkd_jax compiler")
    # Jitted functions, the first with its argument.
    init: Any = run.init
    step: Any = run.step
    init_compiling = thread.submit(init.func.lower(*init.args).compile)
    lowered = step.lower(
        run.shapes.state, run.teacher_variables, sample_batch(run), True
    )
    step_compiling = thread.submit(lowered.compile)
    thread.shutdown(wait=False)
    return run._replace(
        init=_after(init_compiling, init), step=_after(step_compiling, step)
    )


def _after(compiling: Future[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that waits for its program, which JAX then has in memory.

    It raises the compiler's error, if there was one.
    """

    def wait_and_call(*args: Any) -> Any:
        compiling.result()
        return function(*args)

    return wait_and_call
