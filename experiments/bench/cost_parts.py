"""Cost of a training step with DiffKD by its parts: counted, or measured.

    PYTHONPATH=. python experiments/bench/cost_parts.py
    PYTHONPATH=. python experiments/bench/cost_parts.py --time imagenet:r34-r18

Floating-point operations are those of the program before optimisation, as in
``step_cost.py``. Parts that cannot stand alone are differences of two programs over
both taps: denoising (projection, noise adapter, steps, distance) is all losses without
those of diffusion and autoencoder, the diffusion loss is these two without the latter.
"other" is the whole step without all parts: augmentation, optimizer, averages, norms
that are logged. Times are medians over rounds in which all programs run in turn, and
differences of them.
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
from pairs import ALL, drawn_teacher, first_batch, freeze, run_of, shapes_for
from turns import in_turn

from diffkd_jax.backend.compiler import compiler_options

PARTS = (
    "teacher, forward",
    "student, both ways",
    "denoising, forward",
    "denoising, backward",
    "diffusion loss",
    "autoencoder",
    "other",
)


def models_of(run):
    """``(teacher, student)``, functions of variables and a normalised batch."""
    given = run.pure_step.keywords

    def teacher(variables, batch):
        return run.teacher.infer(variables, batch)

    def student(params, carried, batch):
        def loss(params):
            key = jax.random.key(0)
            outputs, new = given["student_apply"](params, carried, batch, key)
            return sum(given["task_loss"](outputs, batch).values()), (outputs, new)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return teacher, student


def losses_of(run, terms, *, gradient):
    """The sum of some losses of the taps, maybe with its gradient."""
    distill = run.pure_step.keywords["distillation"]

    def total(params, student_out, carried, teacher_out):
        # What a step carries is left out: it would keep all denoising steps.
        found, _, _ = distill.loss(
            params, carried, jax.random.key(0), student_out, teacher_out
        )
        kept = [value for name, value in found.items() if name.split("/")[1] in terms]
        return sum(kept, start=jnp.zeros(()))

    return jax.value_and_grad(total, (0, 1)) if gradient else total


def programs(run, state, teacher_variables, raw, call):
    """Functions and arguments by name; ``call`` makes arguments of some of them.

    Args:
      run: of a pair.
      state, teacher_variables, raw: what the step takes, or shapes of it.
      call: ``(function, *arguments) -> results``, or shapes of them.
    """
    prepare, taps = run.pure_step.keywords["prepare"], run.method.taps.values()
    batch = call(lambda raw: prepare(jax.random.key(0), raw), raw)
    teacher, student = models_of(run)
    params, carried = state.params, state.model_state
    of_teacher = (teacher, teacher_variables, batch)
    of_student = (student, params["student"], carried["student"], batch)
    (_, (student_out, _)), _ = call(*of_student)
    teacher_out = call(*of_teacher)
    student_out = {tap.student: student_out[tap.student] for tap in taps}
    teacher_out = {tap.teacher: teacher_out[tap.teacher] for tap in taps}
    rest = (params["distiller"], student_out, carried["distiller"], teacher_out)
    two = ("diffusion", "autoencoder")
    chosen = {
        "all": ((*two, "distance"), True),
        "all, forward": ((*two, "distance"), False),
        "two": (two, True),
        "two, forward": (two, False),
    }
    if any(getattr(tap.block, "latent_channels", None) for tap in taps):
        chosen["autoencoder"] = ("autoencoder",), True
    return {
        "whole": (run.pure_step, state, teacher_variables, raw),
        "teacher": of_teacher,
        "student": of_student,
        **{
            name: (losses_of(run, terms, gradient=gradient), *rest)
            for name, (terms, gradient) in chosen.items()
        },
    }


def parts_of(cost):
    """Cost by part, from the cost of each program."""
    forward = cost["all, forward"] - cost["two, forward"]
    autoencoder = cost.get("autoencoder", 0.0)
    found = [
        cost["teacher"],
        cost["student"],
        forward,
        cost["all"] - cost["two"] - forward,
        cost["two"] - autoencoder,
        autoencoder,
    ]
    return dict(zip(PARTS, [*found, cost["whole"] - sum(found)], strict=True))


def counted(name, batch):
    """GFLOP a picture of each program."""
    run = run_of(name, batch)
    given = programs(run, *shapes_for(run), jax.eval_shape)
    lowered = {n: jax.jit(f).lower(*a) for n, (f, *a) in given.items()}
    flops = {n: low.cost_analysis().get("flops", 0) for n, low in lowered.items()}
    return {n: count / batch / 1e9 for n, count in flops.items()}


def measured(name, batch, rounds):
    """Median milliseconds of each program, and the quartiles of the whole."""
    run = run_of(name, batch)
    jit = lambda f: jax.jit(f, compiler_options=compiler_options())
    teacher = jax.device_put(freeze(run, drawn_teacher(run)))
    call = lambda f, *a: jit(f)(*a)
    given = programs(run, run.init(), teacher, first_batch(run), call)
    compiled = {n: (jit(f).lower(*a).compile(), a) for n, (f, *a) in given.items()}
    calls = {
        n: lambda f=f, a=a: jax.block_until_ready(f(*a))
        for n, (f, a) in compiled.items()
    }
    times = in_turn(calls, rounds)
    samples = {n: [1e3 * wall for wall, _ in found] for n, found in times.items()}
    low, _, high = statistics.quantiles(samples["whole"], n=4)
    return {n: statistics.median(s) for n, s in samples.items()}, (low, high)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=ALL, help="<config>:<pair>")
    parser.add_argument("--batch", type=int, default=0, help="8 if timed, else 32")
    parser.add_argument("--time", action="store_true", help="run all programs")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    batch = asked.batch or (8 if asked.time else 32)
    unit = f"ms, {batch} pictures" if asked.time else "GFLOP a picture"
    print("| pair | " + unit + " | " + " | ".join(PARTS) + " |")
    print("|---" * (len(PARTS) + 2) + "|")
    for name in asked.names:
        if asked.time:
            cost, (low, high) = measured(name, batch, asked.rounds)
            whole = f"{cost['whole']:.0f} ({low:.0f} to {high:.0f})"
        else:
            cost = counted(name, batch)
            whole = f"{cost['whole']:.3g}"
        shares = [
            f"{100 * part / cost['whole']:.0f} %" for part in parts_of(cost).values()
        ]
        print(f"| {name} | {whole} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
