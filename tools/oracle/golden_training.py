"""AdamW, learning-rate schedules and a ten-step loss curve."""

import math

import torch
import torch.nn.functional as F

from oracle.batches import padded_batch, ragged
from oracle.golden_encoder import SHAPE, random_model, tern_config
from oracle.golden_file import GoldenFile
from oracle.model import Classifier, ModelConfig

SHAPES = ((5, 3), (7,), (1, 11))


def adamw_file():
    steps = 5
    learning_rate = [1e-2, 2e-2, 1.5e-2, 1e-2, 5e-3]
    beta1 = [0.95, 0.9, 0.85, 0.88, 0.93]
    beta2 = [0.999, 0.999, 0.998, 0.998, 0.9985]
    config = dict(learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=1e-6, weight_decay=[0.0, 0.1])
    golden = GoldenFile(
        "adamw",
        500,
        config,
        "at step t = 1 .. 5 the rates of that step hold: p -= lr wd p; m = beta1 m + (1 - beta1) g; "
        "v = beta2 v + (1 - beta2) g^2; p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)",
    )
    start = [golden.normal(*shape) for shape in SHAPES]
    gradients = [[golden.normal(*shape) for shape in SHAPES] for _ in range(steps)]
    for step in range(steps):
        gradients[step][2] *= 1e-6  # comparable to eps
        gradients[step][0][1] = 0.0
    for index, tensor in enumerate(start):
        golden.put(f"initial.{index}", tensor)
        golden.put(f"gradient.{index}", torch.stack([step[index] for step in gradients]))
    golden.add(learning_rate=torch.tensor(learning_rate, dtype=torch.float64))
    golden.add(beta1=torch.tensor(beta1, dtype=torch.float64), beta2=torch.tensor(beta2, dtype=torch.float64))
    for name, weight_decay in (("plain", 0.0), ("decay", 0.1)):
        parameters = [tensor.clone() for tensor in start]
        optimizer = torch.optim.AdamW(parameters, eps=1e-6, weight_decay=weight_decay, foreach=False)
        curve = [[] for _ in parameters]
        for step in range(steps):
            set_rates(optimizer, learning_rate[step], beta1[step], beta2[step])
            for parameter, gradient in zip(parameters, gradients[step]):
                parameter.grad = gradient.clone()
            optimizer.step()
            for values, parameter in zip(curve, parameters):
                values.append(parameter.clone())
        for index, values in enumerate(curve):
            golden.put(f"{name}.{index}", torch.stack(values))
            golden.put(f"{name}.{index}.first_moment", optimizer.state[parameters[index]]["exp_avg"])
            golden.put(f"{name}.{index}.second_moment", optimizer.state[parameters[index]]["exp_avg_sq"])
    return golden


def set_rates(optimizer, learning_rate, beta1, beta2=0.999):
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = learning_rate, (beta1, beta2)


def one_cycle(peak, total, warm_up, cycle_momentum):
    """PyTorch's own: the values in force at updates 0 .. total - 1."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=peak,
        total_steps=total,
        pct_start=warm_up / total,
        anneal_strategy="linear",
        cycle_momentum=cycle_momentum,
        div_factor=25.0,
        final_div_factor=1e4,
    )
    rates, betas = [], []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if step + 1 < total:
            schedule.step()
    return rates, betas


def warmed(after):
    return lambda t, total, warm_up: (t + 1) / warm_up if t < warm_up else after(t, total, warm_up)


FACTORS = {
    "constant": warmed(lambda t, total, warm_up: 1.0),
    "linear": warmed(lambda t, total, warm_up: (total - t) / (total - warm_up)),
    "cosine": warmed(lambda t, total, warm_up: (1 + math.cos(math.pi * (t - warm_up) / (total - warm_up))) / 2),
    "inverse_sqrt": warmed(lambda t, total, warm_up: math.sqrt(max(warm_up, 1) / (t + 1))),
}
RUNS = {"long": (100, 20, 1e-4), "short": (37, 5, 3e-3), "no_warm_up": (10, 0, 1.0)}
SCHEDULE_NOTES = """entry t of <run>.<schedule> is the rate of update t = 0 .. total - 1; T total, W warm-up:
the first four rise as peak * (t + 1) / W while t < W; then constant: peak; linear: peak * (T - t) / (T - W);
cosine: peak * (1 + cos(pi * (t - W) / (T - W))) / 2; inverse_sqrt: peak * sqrt(max(W, 1) / (t + 1));
one_cycle (W > 0): straight from peak / 25 at t = 0 to peak at t = W - 1,
then straight to peak / 250000 at t = T - 1;
beta1 of one_cycle_momentum: straight from 0.95 to 0.85 at t = W - 1, back to 0.95 at t = T - 1; else 0.9"""


def schedules_file():
    config = {
        run: dict(total=total, warm_up=warm_up, peak=peak) for run, (total, warm_up, peak) in RUNS.items()
    }
    golden = GoldenFile("schedules", 0, config, SCHEDULE_NOTES)
    for run, (total, warm_up, peak) in RUNS.items():
        for name, factor in FACTORS.items():
            rates = [peak * factor(t, total, warm_up) for t in range(total)]
            golden.put(f"{run}.{name}", torch.tensor(rates, dtype=torch.float64))
        if warm_up == 0:
            continue
        for name, cycled in (("one_cycle", False), ("one_cycle_momentum", True)):
            rates, betas = one_cycle(peak, total, warm_up, cycled)
            golden.put(f"{run}.{name}", torch.tensor(rates, dtype=torch.float64))
            golden.put(f"{run}.{name}.beta1", torch.tensor(betas, dtype=torch.float64))
    return golden


def loss_curve_file():
    steps = 10
    common = dict(**SHAPE, layers=2, bits=8, gradient="surrogate")
    optimizer = dict(learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-6, weight_decay=0.0)
    mechanisms = ("softmax", "yoso")
    golden = GoldenFile(
        "loss_curve",
        600,
        {
            "optimizer": optimizer,
            "steps": steps,
            **{name: tern_config(ModelConfig(**common, attention=name)) for name in mechanisms},
        },
        "losses.<attention>[t] is the mean cross-entropy on batch t before update t; final.<attention>.<name> "
        "are the weights after the last update; both start from weight.<name>",
    )
    start = random_model(golden, ModelConfig(**common)).state_dict()
    batches = []
    for step in range(steps):
        lengths = golden.integers(1, SHAPE["padded_length"] + 1, 4).tolist()
        tokens = padded_batch(golden, lengths, SHAPE["padded_length"], SHAPE["vocabulary"])
        labels = golden.integers(0, SHAPE["classes"], 4)
        golden.add(f"batch.{step}.", **ragged(tokens), labels=labels)
        batches.append((tokens, labels))
    for name, value in start.items():
        golden.put(f"weight.{name}", value)
    for attention in mechanisms:
        model = Classifier(ModelConfig(**common, attention=attention)).double()
        model.load_state_dict(start)
        golden.put(f"losses.{attention}", torch.tensor(train(model, batches), dtype=torch.float64))
        for name, value in model.state_dict().items():
            golden.put(f"final.{attention}.{name}", value)
    return golden


def train(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.0)
    losses = []
    for tokens, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens)[2], labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
