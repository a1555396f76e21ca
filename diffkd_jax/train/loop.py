"""The training loop: one run of one method, from config to exported student."""

import functools
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..core.distill import distillation
from ..core.step import TrainState, diffkd_step, init_state
from ..data import pipeline, transforms
from ..tasks import classification
from . import checkpoint, report, setup, sharding, summary
from .metrics import Progress, Writer, print_line
from .optimizer import make_optimizer, make_schedule

# Fields that may change between two calls on the same workdir.
FREE_FIELDS = ("mode", "dry_run", "log_every_steps", "compare", "num_devices")


def train(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes what is unfinished.

    Args:
      config: a resolved config, see ``configs/common.py``.
      workdir: directory of the run, created if needed.

    Returns:
      The content of ``summary.json``: method, final and best accuracy, and so on.

    Raises:
      ValueError: bad config or data, a workdir of another config, or a loss that is
        not finite.
      FileNotFoundError: missing data or teacher.
    """
    data = setup.open_data(config)
    method = setup.selected_method(config)
    taps, student = setup.make_taps(method), setup.make_model(config.student, data)
    claim_workdir(config, workdir)
    finished = workdir / "summary.json"
    if finished.exists():
        print_line(f"{config.name}: finished already, see {workdir / 'report.html'}")
        return json.loads(finished.read_text())
    mesh = sharding.make_mesh(config.num_devices)
    teacher = get_teacher(config, data, workdir) if taps else None
    print_line(
        summary.describe(
            data, student, teacher, taps, method.weights, config.data.batch_size
        )
    )
    evaluate = make_evaluator(config, data, mesh)
    teacher_metrics = check_teacher(config, teacher, evaluate)
    run = _Run(config, workdir, data, mesh, student, teacher, taps, method, evaluate)
    state, history = run.loop()
    variables = jax.device_get(
        {"params": state.params["student"], **state.model_state["student"]}
    )
    checkpoint.export_student(
        workdir / checkpoint.STUDENT_FILE, variables, student.meta
    )
    result = {
        "name": config.name,
        "method": config.method,
        "seed": config.seed,
        "steps": int(state.step),
        **{f"final_{k}": v for k, v in history[-1].items()},
        "best_top1": max(row["top1"] for row in history),
        **{f"teacher_{k}": v for k, v in teacher_metrics.items()},
        "images_per_second": run.images_per_second,
    }
    examples = run.drawing_examples(state)
    report.write_run(workdir, result, summary_text=run.text, trajectories=examples)
    _write_json(finished, result)
    print_line(
        f"{config.name} ({config.method}): top-1 {result['final_top1']:.4f}, report in "
        f"{workdir / 'report.html'}"
    )
    return result


class _Run:
    """What one call of the loop keeps together."""

    def __init__(
        self, config, workdir, data, mesh, student, teacher, taps, method, evaluate
    ):
        self.config, self.workdir, self.data, self.mesh = config, workdir, data, mesh
        self.student, self.teacher, self.taps = student, teacher, taps
        self.evaluate, self.images_per_second = evaluate, 0.0
        weights = method.weights.to_dict(preserve_field_references=False)
        self.text = summary.describe(
            data, student, teacher, taps, weights, config.data.batch_size
        )
        options = config.data
        self.steps_per_epoch = data.train.size // max(options.batch_size, 1)
        total = round(config.train.epochs * self.steps_per_epoch)
        self.total_steps = min(total, config.train.max_steps or total)
        self.schedule = make_schedule(config, max(1, self.steps_per_epoch), total)
        self.optimizer = make_optimizer(config, self.schedule)
        self.distillation = distillation(taps)
        teacher_apply: Callable = lambda variables, batch: {}
        if teacher is not None:
            teacher_apply = setup.frozen_apply(teacher.module)
        self.teacher_apply = teacher_apply
        self.teacher_variables = sharding.put_replicated(
            teacher.variables if teacher else {}, mesh
        )
        self.step = sharding.jit_step(
            functools.partial(
                diffkd_step,
                student_apply=setup.student_apply(student.module),
                teacher_apply=teacher_apply,
                distillation=self.distillation,
                task_loss=functools.partial(
                    classification.loss, label_smoothing=config.train.label_smoothing
                ),
                optimizer=self.optimizer,
                weights=weights,
                seed=config.seed,
            ),
            mesh,
        )

    def initial_state(self) -> TrainState:
        """Fresh state, replicated; a function of the seed alone."""
        key_student, key_distill = jax.random.split(jax.random.key(self.config.seed))
        module = self.student.module
        batch = {
            "image": jax.ShapeDtypeStruct(
                (self.config.data.batch_size, *self.data.input_shape), np.float32
            )
        }

        def init():
            variables = setup.init_variables(module, key_student, self.data)
            params = variables.pop("params")
            outputs, _ = jax.eval_shape(
                setup.student_apply(module), params, variables, batch, key_student
            )
            teacher_out = jax.eval_shape(
                self.teacher_apply, self.teacher_variables, batch
            )
            return init_state(
                key_distill,
                params,
                variables,
                outputs,
                teacher_out,
                distillation=self.distillation,
                optimizer=self.optimizer,
            )

        return jax.jit(init, out_shardings=sharding.replicated(self.mesh))()

    def loop(self) -> tuple[TrainState, list[dict[str, float]]]:
        """Restore, then step, log, evaluate, checkpoint, until the last step."""
        config, options = self.config, self.config.data
        batches = pipeline.train_batches(
            self.data.train,
            transforms.train_transform(options),
            batch_size=options.batch_size,
            seed=config.seed,
            num_epochs=int(np.ceil(config.train.epochs)),
            num_threads=options.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        state = self.initial_state()
        with checkpoint.manager(self.workdir) as checkpoints:
            restored = checkpoint.restore(checkpoints, state, batches)
            state = state if restored is None else restored
            start = int(state.step)
            if start:
                print_line(f"{config.name}: resuming at step {start}")
            writer = Writer(self.workdir, start)
            history = [
                {k.removeprefix("eval/"): v for k, v in row.items() if "eval/" in k}
                for row in report.rows_with(self.workdir, "eval/top1")
            ]
            label = f"{config.name} {config.method}"
            progress = Progress(label, start, self.total_steps, options.batch_size)
            pending: list[tuple[int, Any]] = []
            for step in range(start + 1, self.total_steps + 1):
                batch = sharding.put_batch(next(batches), self.mesh)
                state, metrics = self.step(state, self.teacher_variables, batch)
                pending.append((step, metrics))
                at_end = step == self.total_steps
                if step % config.log_every_steps == 0 or at_end:
                    self._log(pending, writer, progress, checkpoints)
                    pending = []
                if at_end or self._is_due(step):
                    values = self.evaluate_student(state)
                    history.append(values)
                    writer.write(step, {f"eval/{k}": v for k, v in values.items()})
                    print_line(
                        f"{label}  epoch {step / self.steps_per_epoch:g}  "
                        + "  ".join(f"{k} {v:.4f}" for k, v in values.items())
                    )
                    checkpoint.save(checkpoints, step, state, batches, values["top1"])
            checkpoints.wait_until_finished()
            self.images_per_second = progress.images_per_second(self.total_steps)
            writer.close()
        return state, history

    def _is_due(self, step: int) -> bool:
        every = max(1, round(self.config.eval_every_epochs * self.steps_per_epoch))
        return step % every == 0

    def _log(self, pending, writer, progress, checkpoints) -> None:
        """Averages and writes the steps since the last log; stops on non-finite."""
        steps = [step for step, _ in pending]
        rows = jax.device_get([metrics for _, metrics in pending])
        for step, row in zip(steps, rows, strict=True):
            broken = [n for n in row if "loss/" in n and not np.isfinite(row[n])]
            if broken:
                raise ValueError(
                    f"step {step}: found {broken[0]} = {row[broken[0]]}, expected a "
                    "finite loss; lower the learning rate or the weight of that "
                    f"loss; last good checkpoint: step {checkpoints.latest_step()} in "
                    f"{checkpoints.directory}"
                )
        values = {n: np.mean([row[n] for row in rows], 0) for n in rows[0]}
        values["learning_rate"] = self.schedule(steps[-1] - 1)
        values["images_per_second"] = progress.images_per_second(steps[-1])
        writer.write(steps[-1], values)
        progress.show(steps[-1], values)

    def evaluate_student(self, state: TrainState) -> dict[str, float]:
        variables = {"params": state.params["student"], **state.model_state["student"]}
        return self.evaluate(self.student.module, variables)

    def drawing_examples(self, state: TrainState) -> dict[str, Any]:
        """Denoising of the first evaluation examples, for each tap that denoises."""
        taps = {n: t for n, t in self.taps.items() if t.denoise is not None}
        if not taps:
            return {}
        count = min(256, self.data.evaluation.size)
        batch = transforms.eval_transform(self.config.data)(
            self.data.evaluation.fetch(np.arange(count))
        )
        variables = {"params": state.params["student"], **state.model_state["student"]}
        pair = (
            jax.jit(setup.frozen_apply(self.student.module))(variables, batch),
            jax.jit(self.teacher_apply)(self.teacher_variables, batch),
        )
        return report.trajectories(
            taps,
            state.params["distiller"],
            state.model_state["distiller"],
            jax.random.key(self.config.seed),
            *pair,
        )


def make_evaluator(config, data: setup.Data, mesh) -> Callable[..., dict[str, float]]:
    """``(module, variables) -> {top1, top5, loss}`` on the evaluation split."""
    transform = transforms.eval_transform(config.data)
    forwards: dict[Any, Callable] = {}

    def evaluate(module, variables):
        if module not in forwards:
            apply = setup.frozen_apply(module)
            forwards[module] = sharding.jit_forward(
                lambda v, batch: classification.metrics(apply(v, batch), batch), mesh
            )
        batches = pipeline.eval_batches(
            data.evaluation,
            transform,
            batch_size=config.data.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        sums = [
            forwards[module](variables, sharding.put_batch(batch, mesh))
            for batch in batches
        ]
        totals = jax.tree.map(lambda *x: float(sum(x)), *jax.device_get(sums))
        count = totals.pop("count")
        return {name: value / count for name, value in totals.items()}

    return evaluate


def get_teacher(config, data: setup.Data, workdir: pathlib.Path) -> setup.Model:
    """Loads the teacher from ``teacher.init``, or trains it once in the workdir."""
    if config.teacher.init:
        return setup.load_teacher(config, data, config.teacher.init)
    if not config.teacher.epochs:
        raise ValueError(
            "teacher.init: found '', expected an exported student, or the workdir of a "
            "finished run, or teacher.epochs > 0 to train one"
        )
    directory = pathlib.Path(config.teacher.workdir or workdir / "teacher")
    train(teacher_config(config), directory)
    return setup.load_teacher(config, data, directory)


def teacher_config(config) -> Any:
    """The config that trains ``config.teacher`` as an undistilled student."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.name, own.method = f"{config.name}-teacher", "none"
        own.student = config.teacher
        own.train.epochs = config.teacher.epochs
        own.compare = ()
    return own


def check_teacher(config, teacher, evaluate) -> dict[str, float]:
    """Evaluates the teacher before any training.

    Raises:
      ValueError: it is below ``teacher.min_top1``.
    """
    if teacher is None:
        return {}
    values = evaluate(teacher.module, teacher.variables)
    print_line("teacher  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
    if values["top1"] < config.teacher.min_top1:
        raise ValueError(
            f"teacher.min_top1: found a teacher of {values['top1']:.4f}, expected at "
            f"least {config.teacher.min_top1}; check data.mean, data.std, the picture "
            "size and the order of the classes"
        )
    return values


def claim_workdir(config, workdir: pathlib.Path) -> None:
    """Records the config in a new workdir, or checks that an old one is the same.

    Raises:
      ValueError: the workdir holds a run of another config; nothing is changed.
    """
    record = workdir / "config.json"
    wanted = json.loads(json.dumps(config.to_dict(), default=str))
    if not record.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        _write_json(record, wanted)
        return
    found = _flat(json.loads(record.read_text()))
    expected = _flat(wanted)
    different = [
        f"  {name}: found {found.get(name, 'nothing')!r}, expected "
        f"{expected.get(name, 'nothing')!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
        and name.split(".")[0] not in FREE_FIELDS
    ]
    if different:
        shown = "\n".join(itertools.islice(different, 10))
        raise ValueError(
            f"workdir: {workdir} holds a run of another config; choose another "
            f"--workdir or remove it\n{shown}"
        )


def evaluate_only(config, workdir: pathlib.Path) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing."""
    data = setup.open_data(config)
    module, variables, meta = checkpoint.load_student(workdir)
    if meta["num_classes"] != len(data.class_names):
        raise ValueError(
            f"workdir: {workdir} holds a student of {meta['num_classes']} classes, "
            f"expected {len(data.class_names)}, those of the data"
        )
    mesh = sharding.make_mesh(config.num_devices)
    values = make_evaluator(config, data, mesh)(module, variables)
    print_line("student  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
    return values


def dry_run(config) -> str:
    """Prints and returns the table of taps and sizes; touches no workdir."""
    data = setup.open_data(config)
    method = setup.selected_method(config)
    taps = setup.make_taps(method)
    teacher = setup.make_model(config.teacher, data) if taps else None
    text = summary.describe(
        data,
        setup.make_model(config.student, data),
        teacher,
        taps,
        method.weights,
        config.data.batch_size,
    )
    print_line(text)
    return text


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _write_json(path: pathlib.Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
