"""PyTorch's side of ``vs_pytorch.py``, as a user would state it; see ``our_sides``."""

import contextlib
from functools import partial

import numpy as np
import torch
from torch import nn
from torch_networks import DiffKD, ResNet, WideResNet, conv
from vs_cases import BLOCKS, MOMENTUM, PAIRS, RATE, SIDES, features, noise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of vectors: convolutions on maps of one pixel, as officially, or linear layers, the
# better form.
LAYERS = {"nchw": (conv, nn.BatchNorm2d)}
LINEAR = (nn.Linear, nn.BatchNorm1d)


def placed(x, variant):
    """On the device, maps and kernels laid out as the variant has them."""
    last = torch.contiguous_format if variant == "nchw" else torch.channels_last
    if isinstance(x, nn.Module):
        return x.to(DEVICE, memory_format=last)
    return x.to(DEVICE, memory_format=last) if x.ndim == 4 else x.to(DEVICE)


def tensor(x, variant, vectors=False):
    """From NHWC; vectors, also those given as maps of one pixel, as their layers."""
    x = torch.from_numpy(np.ascontiguousarray(x))
    if vectors:
        flat = x.reshape(len(x), -1)
        return placed(flat[:, :, None, None] if variant in LAYERS else flat, variant)
    return placed(x.permute(0, 3, 1, 2), variant)


def given(batch, channels, side, variant):
    """The noise that both sides are checked with."""
    *drawn, t = noise(batch, channels, side)
    start, eps = (tensor(x, variant, not side) for x in drawn)
    return start, eps, torch.from_numpy(t).to(DEVICE)


def filled(module, file, prefix=""):
    """A module with our weights."""
    own = module.state_dict()
    with np.load(file) as arrays:
        names = [n for n in arrays if n.startswith(prefix)]
        loaded = {n.removeprefix(prefix): torch.from_numpy(arrays[n]) for n in names}
    shaped = {n: x.reshape(own[n].shape) for n, x in loaded.items() if n in own}
    missing, _ = module.load_state_dict(shaped, strict=False)
    if any(not name.endswith("num_batches_tracked") for name in missing):
        raise ValueError(f"found no weights for {missing}")
    return module


def count(*modules):
    return sum(x.numel() for m in modules for x in m.parameters())


def gradient_norm(every):
    return sum(x.grad.double().square().sum() for x in every).sqrt().item()


def compiled(function, variant):
    return torch.compile(function) if variant == "compile" else function


def block(case, variant, cast, file):
    batch, own, other, latent, side = BLOCKS[case]
    layers = None if side else LAYERS.get(variant, LINEAR)
    module = placed(filled(DiffKD(own, other, latent, layers), file), variant)
    student, teacher = (
        tensor(features(what, batch, c, side), variant, not side)
        for what, c in zip(SIDES, (own, other), strict=True)
    )
    student.requires_grad_()
    every = [student, *module.parameters()]

    def loss(noise):
        with cast():
            return sum(module(student, teacher, noise).values())

    loss = compiled(loss, variant)

    def run(noise=None):
        for x in every:
            x.grad = None
        value = loss(noise)
        value.backward()
        return value

    value = run(given(batch, latent or other, side, variant)).item()
    about = {"loss": value, "gradient": gradient_norm(every)}
    return run, about | {"parameters": count(module)}


def network(name, of):
    classes = PAIRS[name][3]
    if name == "wrn":
        return WideResNet(40, 2 if of == "teacher" else 1, classes)
    return ResNet([3, 4, 6, 3] if of == "teacher" else [2, 2, 2, 2], classes)


def frozen(name, variant, file):
    """The teacher, folded, and its number of parameters before."""
    teacher = filled(network(name, "teacher"), file, "teacher.").eval()
    number = count(teacher)
    return placed(teacher.fold().requires_grad_(False), variant), number


def pictures(file, variant):
    """Raw pictures, labels, and the function that normalises."""
    with np.load(file) as arrays:
        image = tensor(arrays["image"], variant)
        label = torch.from_numpy(arrays["label"]).long().to(DEVICE)
        stats = [torch.from_numpy(arrays[n]).float() for n in ("mean", "std")]
    mean, std = (x.reshape(1, 3, 1, 1).to(DEVICE) for x in stats)
    return image, label, lambda image: (image.float() / 255 - mean) / std


def teacher(case, variant, cast, file):
    module, number = frozen(case.split("-")[1], variant, file)
    image, _, normalised = pictures(file, variant)
    x = placed(normalised(image), variant)
    forward = compiled(module, variant)

    def run():
        with torch.no_grad(), cast():
            return forward(x)[1]

    return run, {"loss": run().square().mean().item(), "parameters": number}


def step(case, variant, cast, file):
    name = case.split("-")[1]
    _, batch, (own, other, latent, side), classes = PAIRS[name]
    module, number = frozen(name, variant, file)
    student = filled(network(name, "student"), file, "student.").train()
    layers = LAYERS.get(variant, LINEAR)
    of_features = filled(DiffKD(own, other, latent), file, "features.")
    of_logits = filled(DiffKD(classes, classes, None, layers), file, "logits.")
    parts = [placed(m, variant) for m in (student, of_features, of_logits)]
    trained = [x for m in parts for x in m.parameters()]
    with np.load(file) as arrays:
        decay = float(arrays["decay"])
    optimizer = torch.optim.SGD(trained, RATE, MOMENTUM, weight_decay=decay)
    image, label, normalised = pictures(file, variant)
    shaped = lambda x: x[:, :, None, None] if variant in LAYERS else x

    def loss(image, noise):
        x = placed(normalised(image), variant)
        with cast():
            with torch.no_grad():
                wanted, wanted_logits = module(x)
            found, logits = parts[0](x)
            total = nn.functional.cross_entropy(logits, label)
            total = total + sum(parts[1](found, wanted, noise[0]).values())
            both = shaped(logits), shaped(wanted_logits)
            return total + sum(parts[2](*both, noise[1]).values())

    loss = compiled(loss, variant)

    def run(noise=(None, None)):
        optimizer.zero_grad(set_to_none=True)
        value = loss(image, noise)
        value.backward()
        if noise[0] is None:
            optimizer.step()
        return value

    value = run(
        (
            given(batch, latent or other, side, variant),
            given(batch, classes, 0, variant),
        )
    ).item()
    about = {"loss": value, "gradient": gradient_norm(trained)}
    return run, about | {"parameters": number + count(*parts)}


KINDS = {"block": block, "teacher": teacher, "step": step}


def prepared(case, variant, half, threads, file):
    """A call that waits for the device, and what it has to agree in."""
    torch.set_num_threads(threads)
    # Of TensorFloat-32 each has a default of its own.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    cast = contextlib.nullcontext
    if half:
        cast = partial(torch.autocast, DEVICE, torch.bfloat16)
    run, about = KINDS[case.split("-")[0]](case, variant, cast, file)

    def waited():
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return waited, about
