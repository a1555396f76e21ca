"""Pictures a second and core of the training input, beside its limit and others.

    pip install scikit-image scikit-learn
    python experiments/bench/input_pipeline.py

Writes 500x375 JPEGs, cut from the photographs that these two packages ship, as
``train/CLASS/*.JPEG``, and times what recipe B1 does to them (random resized crop to
224, flip) and B2 (RandAugment besides):

* ``limit``: a loop that reads, decodes and crops as we do, and drops the crops;
* ``threads``, ``processes``: batches of 64 from ``train_batches``, one worker;
* ``exact``: as ``threads``, with the filtered resize of Pillow (``data.exact_crops``);
* ``torch``: ``DataLoader`` with Pillow, one worker process, our RandAugment;
* ``tf.data``: partial decode and resize without a filter, one thread.

The last two are left out where PyTorch or TensorFlow is not installed. Each is a
process of its own, all on one core, and they take turns of a second or two, round after
round, stopped in between. The rate is pictures by CPU time, that of workers included,
which other load disturbs less than wall time; medians, and quartiles of the ratios.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial

import numpy as np
from PIL import Image

BATCH, SIZE = 64, 224
COPIES = 64  # names of a file: the order of a small split is dear by comparison


def photographs():
    from skimage import data
    from sklearn.datasets import load_sample_images

    ours = ["astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket"]
    return [getattr(data, name)() for name in ours] + load_sample_images().images


def write_pictures(folder, count):
    """Random parts of the photographs at 500x375, quality 92."""
    rng, originals = np.random.default_rng(0), photographs()
    for i in range(count):
        image = Image.fromarray(originals[i % len(originals)])
        scale = rng.uniform(0.6, 1.0) * min(image.width / 500, image.height / 375)
        w, h = 500 * scale, 375 * scale
        left, top = rng.uniform(0, image.width - w), rng.uniform(0, image.height - h)
        file = folder / f"train/class{i % len(originals)}/{i:05}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = image.resize(
            (500, 375), Image.Resampling.BICUBIC, (left, top, left + w, top + h)
        )
        part.save(file, quality=92)
        for copy in range(1, COPIES):
            os.link(file, file.with_stem(f"{file.stem}_{copy}"))


def options(rand_augment, **changes):
    from diffkd_jax.configs import imagenet

    from diffkd_jax.config.resolve import resolve

    data = resolve(imagenet.get_config()).data
    return data.replace(rand_augment=9.0 if rand_augment else 0.0, **changes)


def limit(folder, rand_augment):
    """Batches of nothing but decoded crops, in a loop."""
    from diffkd_jax.data.images import resize
    from diffkd_jax.data.transforms.crops import random_resized_crop
    from diffkd_jax.data.transforms.randaugment import rand_augment as augment

    names = [str(file) for file in sorted(folder.glob("train/*/*"))]
    rng = np.random.default_rng(0)
    while True:
        for _ in range(len(names) // BATCH):
            for name in rng.choice(names, BATCH):
                with open(name, "rb") as stream:
                    file = resize.Encoded(stream.read(), name)
                crop = random_resized_crop(file, rng, size=SIZE, flip=False)
                if rand_augment:
                    augment(crop, rng)
            yield BATCH


def ours(folder, rand_augment, workers=0, exact=False):
    from diffkd_jax.data.pipeline import batches as pipeline
    from diffkd_jax.data.sources import registry
    from diffkd_jax.data.transforms.labels import train_labelled

    data = options(rand_augment, exact_crops=exact)
    batches = pipeline.train_batches(
        registry.load("folder", str(folder)).splits["train"],
        lambda batch, draws: train_labelled(batch, draws, data),
        batch_size=BATCH,
        seed=0,
        num_epochs=1000,
        num_threads=1,
        num_workers=workers,
    )
    for batch in batches:
        yield len(batch["image"])


def torch_loader(folder, rand_augment):
    import torch

    from diffkd_jax.data.transforms import crops
    from diffkd_jax.data.transforms.randaugment import rand_augment as augment

    torch.set_num_threads(1)

    class Files(torch.utils.data.Dataset):
        """What torchvision's transforms do to a file, with our draws."""

        def __init__(self):
            self.files = sorted(folder.glob("train/*/*"))

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            rng = np.random.default_rng(torch.randint(2**31, ()).item())
            with Image.open(self.files[index]) as file:
                image = file.convert("RGB")
            box = crops._random_box(image.height, image.width, rng)
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            array = np.array(image)
            if rand_augment:
                array = np.array(augment(array, rng))
            return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    loader = torch.utils.data.DataLoader(
        Files(),
        BATCH,
        shuffle=True,
        num_workers=1,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for image in loader:
            yield len(image)


def tf_data(folder, rand_augment):
    import tensorflow as tf

    if rand_augment:
        return
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def load(file):
        data = tf.io.read_file(file)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE))
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    files = tf.data.Dataset.list_files(str(folder / "train/*/*"), shuffle=True)
    dataset = files.repeat().map(load, num_parallel_calls=1).batch(BATCH).prefetch(1)
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = 1
    for image in dataset.with_options(settings):
        yield len(image)


WAYS = {
    "limit": limit,
    "threads": ours,
    "processes": partial(ours, workers=1),
    "exact": partial(ours, exact=True),
    "torch": torch_loader,
    "tf.data": tf_data,
}


def cpu_seconds():
    """CPU time of this process and of its children, those that run included."""
    total = time.process_time()
    pids = pathlib.Path("/proc/self/task").glob("*/children")
    for pid in " ".join(p.read_text() for p in pids).split():
        fields = (
            pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        )
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def answer_turns(arguments):
    """A child: for each line it reads, one turn, and pictures by CPU second back."""
    batches = WAYS[arguments.way](
        pathlib.Path(arguments.folder), arguments.rand_augment
    )
    try:
        usable = next(batches, 0) > 0
    except ImportError as error:
        print(f"{arguments.way}: left out, {error}", file=sys.stderr)
        usable = False
    print(json.dumps(usable), flush=True)
    for _ in sys.stdin:
        for _ in range(6):  # what was prepared ahead before the turn
            next(batches)
        count, before = 0, cpu_seconds()
        while (spent := cpu_seconds() - before) < arguments.seconds:
            count += next(batches)
        print(json.dumps(count / spent), flush=True)
    os._exit(0)  # without waiting for workers that still prepare batches


class Child:
    """A way in its own session, stopped with its workers but for its turns."""

    def __init__(self, way, rand_augment, folder, seconds):
        command = [sys.executable, __file__, f"--way={way}", f"--folder={folder}"]
        command += [f"--seconds={seconds}"] + ["--rand_augment"] * rand_augment
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.usable = json.loads(self.process.stdout.readline())
        self.signal(signal.SIGSTOP)

    def signal(self, kind):
        os.killpg(self.process.pid, kind)

    def turn(self):
        self.signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        rate = json.loads(self.process.stdout.readline())
        self.signal(signal.SIGSTOP)
        return rate


def parent(arguments):
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(pathlib.Path(folder), arguments.pictures)
        sizes = [f.stat().st_size for f in pathlib.Path(folder).rglob("*.JPEG")]
        print(
            f"{arguments.pictures} JPEGs of 500x375, {np.mean(sizes) / 1024:.0f} KiB "
            f"each, in a split of {len(sizes)}"
        )
        children = {
            (way, augment): Child(way, augment, folder, arguments.seconds)
            for augment in (False, True)
            for way in arguments.ways
        }
        rates = {key: [] for key, child in children.items() if child.usable}
        try:
            for _ in range(arguments.rounds):
                for key, found in rates.items():
                    found.append(children[key].turn())
        finally:
            for child in children.values():
                child.signal(signal.SIGKILL)
    print(
        "| way | B1: crop, flip | of the limit | B2: RandAugment too | of the limit |"
    )
    print("|---|---|---|---|---|")
    for way in arguments.ways:
        cells = []
        for augment in (False, True):
            if (way, augment) not in rates:
                cells += ["", ""]
                continue
            mine, most = np.array(rates[way, augment]), rates["limit", augment]
            low, middle, high = np.percentile(mine / most, [25, 50, 75])
            cells.append(f"{np.median(mine):.0f}")
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.5, help="of CPU, a turn")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--rand_augment", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    answer_turns(arguments) if arguments.way else parent(arguments)
