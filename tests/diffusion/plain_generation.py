"""Generation as the papers tell it, for tests: one item, all positions scored in every step, lists and loops. It shares with the
library nothing but the random streams."""

import math

import torch

from mdlm_min.run.random_streams import stream


def model_scores(model):
    """The scores [length, vocabulary] of a list of tokens, by a full pass."""

    def scores(tokens, block, is_first):
        with torch.no_grad():
            return model(torch.tensor([tokens]))[0].double()

    return scores


def frozen_scores(model, kind):
    """The same with a cache: after a block's first pass, keys and values of what is not read anew are those of that pass."""
    recorded, state = {}, {}

    def hook(module, inputs, output):
        if state["first"]:
            recorded[module] = output
            return output
        return tuple(
            torch.where(state["fresh"][None, :, None], new, old) for new, old in zip(output, recorded[module], strict=True)
        )

    handles = [block.qkv.register_forward_hook(hook) for block in model.blocks]

    def scores(tokens, block, is_first):
        place = torch.arange(len(tokens))
        state["first"] = is_first
        state["fresh"] = torch.isin(place, torch.tensor(block)) if kind == "dual" else place >= block[0]
        with torch.no_grad():
            return model(torch.tensor([tokens]))[0].double()

    scores.close = lambda: [handle.remove() for handle in handles]
    return scores


def plain_generation(
    scores, template, mask, config, seed=0, item=0, suppress=(), begin_suppress=(), defer=(), stop=(), calls=None
):
    x = list(template)
    holes = [i for i, token in enumerate(x) if token == mask]
    size = config.block_length or len(holes)
    blocks = [holes[start : start + size] for start in range(0, len(holes), size)]
    number = 0
    for index, block in enumerate(blocks):
        steps = config.steps // len(blocks) + (1 if index < config.steps % len(blocks) else 0)
        is_first = True
        for step in range(steps):
            generator = stream(seed, f"unmask {item}", number)
            number += 1
            still = [i for i in block if x[i] == mask]
            amount = len(block) // steps + (1 if step < len(block) % steps else 0)
            places = still if amount else []
            if config.remasking in ("random", "ancestral"):
                u = torch.rand(len(x), generator=generator, dtype=torch.float64).tolist()
                if config.remasking == "random":
                    places = sorted(sorted(still, key=lambda i: -u[i])[:amount])
                else:
                    places = [i for i in still if u[i] < 1 / (steps - step)]
            if not places:
                continue
            logits = scores(x, block, is_first)
            if config.cfg_scale:
                blank = [mask if i not in holes else token for i, token in enumerate(x)]
                other = scores(blank, block, is_first)
                logits = other + (config.cfg_scale + 1) * (logits - other)
            is_first = False
            if calls is not None:
                calls.append(number)
            chosen, confidence = {}, {}
            for i in places:
                row = logits[i].clone()
                for token in (mask, *suppress, *(begin_suppress if i == holes[0] else ())):
                    if token < len(row):
                        row[token] = -math.inf
                noisy = row
                if config.temperature:
                    gumbel = -torch.empty(len(row), dtype=torch.float64).exponential_(generator=generator).log()
                    noisy = row + config.temperature * gumbel
                chosen[i] = int(noisy.argmax())
                for token in defer:
                    row[token] = -math.inf
                p = torch.softmax(row, dim=0)
                ordered = sorted(p.tolist(), reverse=True)
                if config.remasking == "margin":
                    confidence[i] = ordered[0] - ordered[1]
                elif config.remasking == "entropy":
                    confidence[i] = sum(value * math.log(value) for value in ordered if value > 0)
                else:
                    confidence[i] = float(p[chosen[i]])
                if chosen[i] in defer:
                    confidence[i] = -math.inf
            if config.remasking in ("low-confidence", "margin", "entropy"):
                best = sorted(places, key=lambda i: -confidence[i])
                sure = 0
                if config.threshold:
                    sure = sum(confidence[i] >= config.threshold for i in places)
                while config.factor and sure < len(best) and confidence[best[sure]] >= 1 - config.factor / (sure + 2):
                    sure += 1
                places = best[: max(amount, sure)]
            for i in places:
                x[i] = chosen[i]
    for place, i in enumerate(holes):
        if x[i] in stop:
            return [x[i] if j in holes[place:] else token for j, token in enumerate(x)]
    return x
