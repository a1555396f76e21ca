"""The progress line and the rows on disk."""

import time

from diffkd_jax.train.outputs.metrics import Progress, Writer, read_rows


def test_progress_shows_rate_time_left_and_losses(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress("run", 1, 101, 64)
    progress.show(1, {"loss/task": 2.0})
    progress.show(11, {"loss/task": 1.5, "gamma/x": 0.5})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "run  step 1/101  0 images/s  ETA ?  task 2"
    assert second == "run  step 11/101  320 images/s  ETA 0:18  task 1.5"


def test_resuming_drops_later_rows_and_broken_lines(tmp_path):
    writer = Writer(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss/task": float(step), "histogram": [1, 2]})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    Writer(tmp_path, step=2).close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
