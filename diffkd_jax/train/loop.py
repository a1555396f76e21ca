"""The training loop of one method."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np

from ..core.distill import distillation
from ..core.platform import compiler_options
from ..core.step import TrainState, as_seed, diffkd_step, init_state
from ..data import pipeline, transforms
from . import checkpoint, report, setup, sharding
from .finite import require_finite
from .metrics import Progress, Writer, print_line, print_values
from .optimizer import make_optimizer, make_schedule


def student_variables(state: TrainState) -> dict[str, Any]:
    """What the student's module is applied to."""
    return {"params": state.params["student"], **state.model_state["student"]}


def ema_variables(state: TrainState) -> dict[str, Any]:
    """The same of its average, where the state carries one."""
    return {"params": state.ema["params"], **state.ema["state"]}


def make_prepare(data, task) -> Callable:
    """``(key, batch) -> batch``: what a step does to a batch before anything else."""

    def prepare(key, batch):
        batch = data.normalise(batch)
        return batch if task.prepare is None else task.prepare(key, batch)

    return prepare


class Loop:
    """Steps, logs, evaluations and checkpoints of one run, compiled once.

    Order: restore, then for each step dispatch; at intervals fetch and log the metrics,
    evaluate, checkpoint.
    """

    def __init__(
        self,
        config,
        workdir,
        data,
        task,
        mesh,
        student,
        teacher,
        taps,
        method,
        evaluate,
    ):
        self.config, self.workdir, self.data, self.mesh = config, workdir, data, mesh
        self.task = task
        self.student, self.taps = student, taps
        self.title = f"{config.name} {config.method}"
        self.evaluate, self.images_per_second = evaluate, 0.0
        self.seen = None  # evidence of the last evaluation
        self.unreadable: set[int] = set()  # training pictures found so far
        weights = method.weights.to_dict(preserve_field_references=False)
        options = config.data
        self.steps_per_epoch = data.train.size // max(options.batch_size, 1)
        total = round(config.train.epochs * self.steps_per_epoch)
        self.total_steps = min(total, config.train.max_steps or total)
        group = config.train.norm_group_size
        if group < 0 or (group and options.batch_size % group):
            raise ValueError(
                f"train.norm_group_size: found {group}, expected a divisor of "
                f"data.batch_size, {options.batch_size}, or 0"
            )
        if self.total_steps < 1:
            raise ValueError(
                f"train.epochs, data.batch_size: found {config.train.epochs} and "
                f"{options.batch_size}, no step on {data.train.size} pictures, "
                "expected at least one"
            )
        self.schedule = make_schedule(config, self.steps_per_epoch, total)
        self.optimizer = make_optimizer(config, self.schedule)
        self.distillation = distillation(taps)
        teacher_apply: Callable = lambda variables, batch: {}
        if teacher is not None:
            teacher_apply = setup.frozen_apply(teacher.module)
        self.teacher_apply = teacher_apply
        self.teacher_variables = sharding.put_replicated(
            teacher.variables if teacher else {}, mesh
        )
        self.pure_step = functools.partial(
            diffkd_step,
            student_apply=setup.student_apply(student.module),
            teacher_apply=teacher_apply,
            distillation=self.distillation,
            task_loss=task.loss,
            optimizer=self.optimizer,
            weights=weights,
            prepare=make_prepare(data, task),
            ema_decay=config.train.ema_decay,
        )
        self.student_frozen = setup.frozen_apply(student.module)
        self.step = sharding.jit_step(self.pure_step, mesh)

    def initial_state(self) -> TrainState:
        """Fresh state, replicated; a function of the seed alone."""
        module = self.student.module
        batch = setup.batch_shapes(self.data, self.config.data.batch_size)

        def init(seed):
            key_student, key_distill = jax.random.split(jax.random.key(seed))
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
                ema=self.config.train.ema_decay > 0,
                seed=seed,
            )

        as_seed(self.config.seed)  # its range; inside it is traced
        # An argument, so that another seed is no other program.
        compiled = jax.jit(
            init,
            out_shardings=sharding.replicated(self.mesh),
            compiler_options=compiler_options(once=True),
        )
        return compiled(np.int32(self.config.seed))

    def run(self) -> tuple[TrainState, list[dict[str, float]]]:
        """Restore, then step, log, evaluate, checkpoint, until the last step."""
        config, options = self.config, self.config.data
        state = self.initial_state()
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                checkpoint.manager(self.workdir, self.task)
            )
            restored = checkpoint.restore(checkpoints, state)
            state = state if restored is None else restored
            start = int(state.step)
            if start:
                print_line(f"{config.name}: resuming at step {start}")
            batches = self._batches(start)
            writer = stack.enter_context(closing(Writer(self.workdir, start)))
            history = report.evaluations(self.workdir, self.task.headline)
            progress = Progress(self.title, start, self.total_steps, options.batch_size)
            pending: list[tuple[int, Any]] = []
            for step in range(start + 1, self.total_steps + 1):
                batch = sharding.put_batch(self._next(batches), self.mesh)
                state, metrics = self.step(state, self.teacher_variables, batch)
                if step == start + 1:
                    # The rate is that of steps, compilation is left out.
                    jax.block_until_ready(metrics)
                    progress = Progress(
                        self.title, step, self.total_steps, options.batch_size
                    )
                pending.append((step, metrics))
                # Dispatch runs ahead of the device by one step, whose batch is copied
                # while this one computes; without a bound, batches would pile up.
                jax.block_until_ready([m for _, m in pending[-2:-1]])
                due = step == self.total_steps or self._is_due(step)
                # Before a checkpoint too: a broken step is never saved.
                if due or step % config.log_every_steps == 0:
                    self._log(pending, writer, progress, checkpoints)
                    pending = []
                if due:
                    values = self._evaluate(state, step, writer)
                    history[step] = values
                    checkpoint.save(checkpoints, step, state, values)
            if self.total_steps not in history:  # its row was lost
                values = self._evaluate(state, self.total_steps, writer)
                history[self.total_steps] = values
            checkpoints.wait_until_finished()
            self.images_per_second = progress.images_per_second(self.total_steps)
        return state, [history[step] for step in sorted(history)]

    def _batches(self, start: int):
        """Training batches from step ``start`` on."""
        options = self.config.data
        return pipeline.train_batches(
            self.data.train,
            transforms.train_transform(options),
            batch_size=options.batch_size,
            seed=self.config.seed,
            num_epochs=int(np.ceil(self.config.train.epochs)),
            start=start,
            num_threads=options.num_threads,
            num_workers=options.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _evaluate(self, state: TrainState, step: int, writer) -> dict[str, float]:
        values = self.evaluate_student(state)
        writer.write(step, {f"eval/{k}": v for k, v in values.items()})
        epoch = step / self.steps_per_epoch
        print_values(f"{self.title}  epoch {epoch:g}", values)
        return values

    def _next(self, batches) -> dict[str, np.ndarray]:
        """The next batch without what it says of unreadable pictures."""
        batch = next(batches)
        skipped, most = batch.pop("skipped"), self.config.data.max_unreadable
        pipeline.note_skipped(skipped, self.unreadable, self.data.train, most)
        return batch

    def _is_due(self, step: int) -> bool:
        every = max(1, round(self.config.eval_every_epochs * self.steps_per_epoch))
        return step % every == 0

    def _log(self, pending, writer, progress, checkpoints) -> None:
        """Averages and writes the steps since the last log; stops on non-finite."""
        steps = [step for step, _ in pending]
        rows = jax.device_get([metrics for _, metrics in pending])
        require_finite(
            dict(zip(steps, rows, strict=True)),
            checkpoints.all_steps(),
            self.workdir,
        )
        values = {n: np.mean([row[n] for row in rows], 0) for n in rows[0]}
        values["learning_rate"] = self.schedule(steps[-1] - 1)
        values["unreadable"] = len(self.unreadable)
        values["images_per_second"] = progress.images_per_second(steps[-1])
        writer.write(steps[-1], values)
        progress.show(steps[-1], values)

    def evaluate_student(self, state: TrainState) -> dict[str, float]:
        """Scores of the student and, with the prefix ``ema_``, of its average."""
        values, self.seen = self.evaluate(self.student_frozen, student_variables(state))
        if state.ema:
            average, _ = self.evaluate(self.student_frozen, ema_variables(state))
            values |= {f"ema_{name}": value for name, value in average.items()}
        return values

    def drawing_examples(self, state: TrainState) -> dict[str, Any]:
        """Denoising of the first evaluation examples, for each tap that denoises."""
        if not self.taps:
            return {}
        count = min(256, self.data.evaluation.size)
        count -= count % max(self.config.train.norm_group_size, 1)
        if not count:
            return {}
        batch = transforms.eval_transform(self.config.data)(
            self.data.evaluation.fetch(np.arange(count))
        )
        batch = self.data.normalise(batch)
        compile_once = functools.partial(
            jax.jit, compiler_options=compiler_options(once=True)
        )
        student_apply = compile_once(self.student_frozen)
        pair = (
            student_apply(student_variables(state), batch),
            compile_once(self.teacher_apply)(self.teacher_variables, batch),
        )
        return report.trajectories(
            self.taps,
            state.params["distiller"],
            state.model_state["distiller"],
            jax.random.key(self.config.seed),
            *pair,
        )
