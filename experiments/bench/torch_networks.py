"""What is compared, stated plainly in PyTorch: two ResNets, and the blocks of DiffKD.

Modules have the names of the definitions whose weights we read, so that
``diffkd_jax.weights.torch.convert.export_state_dict`` fills them.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class PreActivation(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.convShortcut = None
        if before != channels:
            self.convShortcut = nn.Conv2d(before, channels, 1, stride, bias=False)

    def forward(self, x):
        active = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class Blocks(nn.Module):
    def __init__(self, count, before, channels, stride):
        super().__init__()
        first = PreActivation(before, channels, stride)
        rest = (PreActivation(channels, channels, 1) for _ in range(count - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, classes):
        super().__init__()
        count, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Blocks(count, widths[0], widths[1], 1)
        self.block2 = Blocks(count, widths[1], widths[2], 2)
        self.block3 = Blocks(count, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        features = functional.relu(self.bn1(x))
        return features, self.fc(features.mean((2, 3)))

    def fold(self):
        for module in self.modules():
            if isinstance(module, PreActivation):
                module.conv1 = fuse_conv_bn_eval(module.conv1, module.bn2)
                module.bn2 = nn.Identity()
        return self


class BasicBlock(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(
            y + (x if self.downsample is None else self.downsample(x))
        )


class ResNet(nn.Module):
    def __init__(self, counts, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for i, count in enumerate(counts):
            channels, blocks = 64 * 2**i, []
            for j in range(count):
                stride = 2 if i and j == 0 else 1
                blocks.append(BasicBlock(before, channels, stride))
                before = channels
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x, self.fc(x.mean((2, 3)))

    def fold(self):
        self.conv1 = fuse_conv_bn_eval(self.conv1, self.bn1)
        self.bn1 = nn.Identity()
        for block in self.modules():
            if isinstance(block, BasicBlock):
                for i in "12":
                    pair = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
                    setattr(block, f"conv{i}", fuse_conv_bn_eval(*pair))
                    setattr(block, f"bn{i}", nn.Identity())
                if block.downsample is not None:
                    block.downsample = fuse_conv_bn_eval(*block.downsample)
        return self


def conv(before, after, kernel_size=1):
    return nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2)


class Bottleneck(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        inner = channels // reduction
        self.block = nn.Sequential(
            *(conv(channels, inner), nn.BatchNorm2d(inner), nn.ReLU()),
            *(conv(inner, inner, 3), nn.BatchNorm2d(inner), nn.ReLU()),
            *(conv(inner, channels), nn.BatchNorm2d(channels)),
        )

    def forward(self, x):
        return x + self.block(x)


class NoisePredictor(nn.Module):
    def __init__(self, c, layers):
        super().__init__()
        self.time_embedding = nn.Embedding(1280, c)
        self.vectors = layers is not None
        if layers is None:
            parts = Bottleneck(c, 4), Bottleneck(c, 4), conv(c, c), nn.BatchNorm2d(c)
        else:
            linear, norm = layers
            parts = (
                *(linear(c, 4 * c), norm(4 * c), nn.ReLU(), linear(4 * c, c), norm(c)),
                *(linear(c, 4 * c), norm(4 * c), nn.ReLU(), linear(4 * c, c)),
            )
        self.pred = nn.Sequential(*parts)

    def forward(self, x, t):
        embedding = self.time_embedding(t)
        embedding = embedding.reshape(*embedding.shape, *(1,) * (x.ndim - 2))
        return self.pred(x + embedding)


class NoiseAdapter(nn.Module):
    def __init__(self, c, layers):
        super().__init__()
        if layers is None:
            self.feat = nn.Sequential(Bottleneck(c, 8))
        else:
            linear, norm = layers
            self.feat = nn.Sequential(
                *(linear(c, 2 * c), norm(2 * c), nn.ReLU()),
                *(linear(2 * c, c), norm(c)),
            )
        self.pred = nn.Linear(c, 2)

    def forward(self, x):
        x = self.feat(x)
        if x.ndim == 4:
            x = x.mean((2, 3))
        return functional.softmax(self.pred(x), 1)[:, 0]


class AutoEncoder(nn.Module):
    def __init__(self, channels, latent):
        super().__init__()
        self.encoder = nn.Sequential(conv(channels, latent), nn.BatchNorm2d(latent))
        self.decoder = nn.Sequential(conv(latent, channels))

    def forward(self, x):
        latent = self.encoder(x)
        return latent, self.decoder(latent)


class DiffKD(nn.Module):
    """Losses of one pair: distance, diffusion, and the autoencoder's, if there is one.

    ``layers`` is None for maps; for vectors the layer and the norm that they go
    through: convolutions on maps of one pixel, as officially, or linear ones.
    """

    def __init__(self, student, teacher, latent=None, layers=None, num_steps=5):
        super().__init__()
        self.ae = AutoEncoder(teacher, latent) if latent else None
        c = latent or teacher
        linear, norm = layers or (conv, nn.BatchNorm2d)
        self.trans = linear(student, c)
        self.model = NoisePredictor(c, layers)
        self.noise_adapter = NoiseAdapter(c, layers)
        self.proj = nn.Sequential(linear(c, c), norm(c))
        powers = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
        self.register_buffer("powers", powers.float(), persistent=False)
        stride = 1000 // (2 * num_steps)
        times = range(stride * (num_steps - 1), -1, -stride)
        power = lambda t: float(powers[t]) if t >= 0 else 1.0
        self.plan = [(t, power(t), power(t - stride)) for t in times]

    def forward(self, student, teacher, noise=None):
        teacher, losses = teacher.detach(), {}
        x = self.trans(student)
        if self.ae is not None:
            latent, reconstruction = self.ae(teacher)
            losses["autoencoder"] = functional.mse_loss(reconstruction, teacher)
            teacher = latent.detach()
        if noise is None:
            t = torch.randint(0, 1000, x.shape[:1], device=x.device)
            noise = torch.randn_like(x), torch.randn_like(teacher), t
        start, eps, t = noise
        per_example = lambda v: v.reshape(-1, *(1,) * (x.ndim - 1))
        gamma = per_example(self.noise_adapter(x))
        x = gamma * x + (1 - gamma) * start
        for time, now, then in self.plan:
            times = torch.full(x.shape[:1], time, device=x.device)
            predicted = self.model(x, times)
            clean = (x - (1 - now) ** 0.5 * predicted) / now**0.5
            x = then**0.5 * clean + (1 - then) ** 0.5 * predicted
        refined = self.proj(x)
        power = per_example(self.powers[t])
        noisy = power.sqrt() * teacher + (1 - power).sqrt() * eps
        losses["diffusion"] = functional.mse_loss(self.model(noisy, t), eps)
        if self.model.vectors:
            both = refined.flatten(1), teacher.flatten(1)
            own, other = (functional.log_softmax(v, 1) for v in both)
            losses["distance"] = functional.kl_div(
                own, other, reduction="batchmean", log_target=True
            )
        else:
            losses["distance"] = functional.mse_loss(refined, teacher)
        return losses
