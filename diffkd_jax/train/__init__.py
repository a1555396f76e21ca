"""The trainer around the method.

A training run passes through these functions, in this order:

1. ``commands.train.train``: the whole command. It claims and locks the workdir.
2. ``build.build``: makes a ``Run`` from a config and traces it; ``check.check`` refuses
   parts that do not fit each other.
3. ``preflight.check_start``: refuses what the devices or the files do not allow.
4. ``commands.train.get_teacher``: loads the teacher, or trains it first by the same
   command.
5. ``fit.fit``: opens the workdir's files and restores the last checkpoint. Then it
   calls the functions of ``loop`` for each step: advance, log, evaluate, save.
6. ``outputs.results.write_results``: exports the student, then writes the summary and
   the report.

``commands/`` also compares methods, evaluates, predicts and makes dry runs.
``workdir/`` holds the files of a run, ``cluster/`` devices and processes, and
``outputs/`` metrics, plots, report and predictions.
"""
