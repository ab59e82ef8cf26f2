"""The report's sections on what tokens cost, and on what merging loses."""

import math
from collections.abc import Iterator

from flexicodec.analysis.codes import flag_limit_bps
from flexicodec.analysis.figures import Series, draw_bits, draw_distortion
from flexicodec.analysis.report.document import Block, Figure, Number, Prose, Section, Table
from flexicodec.analysis.study import SettingStudy, Study

SHOWN_CODEBOOKS = 8  # in tables of single parts; the JSON file of numbers has what tables have


def bits(study: Study) -> Section:
    """Report true against nominal bits."""
    found = [each for each in study.settings if each.codes]
    if not found:
        return Section("Bits", (Prose("There are too few clips to try a model on others than it was made of."),))
    return Section("Bits: fields against what codes are worth", tuple(_bits(study, found)))


def _bits(study: Study, found: list[SettingStudy]) -> Iterator[Block]:
    yield Prose(
        "A token's fields have fixed widths. What coding would cost is measured as code length, in bits, of count "
        "models that were made of other clips (five folds, no speaker on both sides where there are several): an "
        "honest upper bound on the entropy, which falls as more speech is counted. Of several models of a part the "
        "cheapest is taken, or its field where no model is cheaper."
    )
    yield Table(
        "bitrates",
        "Bits per second of everything in a token, and what share of the fields coding saves.",
        ("setting", "nominal kbit/s", "coded kbit/s", "saved", "tokens"),
        tuple(
            (
                each.setting.name,
                Number.of(each.codes.nominal_kbps, "kbit/s", "fields", 3),
                Number.of(each.codes.coded_kbps, "kbit/s", "held-out code length", 3),
                Number(1 - each.codes.coded_kbps.value / each.codes.nominal_kbps.value, "1", digits=3),
                each.codes.tokens,
            )
            for each in found
            if each.codes
        ),
    )
    main = study.main if study.main.codes else found[0]
    assert main.codes is not None
    parts = main.codes.parts
    nominal = {part.name: part.nominal or part.coded[part.best].value for part in parts}
    cheapest = Series("cheapest model, held out", tuple(nominal), tuple(part.coded[part.best] for part in parts))
    yield Figure(
        "bits",
        f"Bits of each part of a token at {main.setting.name}: the width of its field, and its cheapest held-out code.",
        "Bars of field widths, with a dot for the coded bits of each part.",
        draw_bits(nominal, [cheapest]),
    )
    yield _parts(main)
    if any(each.digits for each in study.settings):
        yield from _digits(study)
    yield from _flags(study, found)


def _parts(main: SettingStudy) -> Table:
    assert main.codes is not None
    rows: list[tuple[str | int | Number, ...]] = []
    layers = [part for part in main.codes.parts if part.name.startswith("acoustic")]
    for part in main.codes.parts:
        if part in layers[SHOWN_CODEBOOKS:]:
            continue
        for label, interval in part.coded.items():
            if label != "as its field":
                chosen = " (cheapest)" if label == part.best else ""
                cost = Number.of(interval, "bits per token", "held-out code length", 2)
                field = "–" if part.nominal is None else Number(part.nominal, "bits per token", digits=0)
                use = part.use
                rows.append(
                    (
                        f"{part.name}, {label}{chosen}",
                        field,
                        cost,
                        Number(part.miller_madow, "bits", digits=2),
                        "–" if use is None else f"{use.used} of {use.size}",
                        "–" if use is None else Number(use.perplexity, "codes", digits=1),
                    )
                )
    return Table(
        "parts",
        f"{main.setting.name}, part by part. Entropy by itself is Miller and Madow's estimate, too low where codes "
        "are many and tokens few; perplexity is as many codes, used evenly, would be worth.",
        ("part, model", "field (bits)", "coded (bits)", "entropy by itself", "codes used", "perplexity"),
        tuple(rows),
    )


def _digits(study: Study) -> Iterator[Block]:
    found = [each for each in study.settings if each.digits]
    rows: list[tuple[str | int | Number, ...]] = []
    timed = any(each.digits and each.digits.phones for each in found)
    for each in found:
        assert each.digits is not None
        digits = each.digits
        for j, entropy in enumerate(digits.entropies):
            others = [float(bits) for i, bits in enumerate(digits.shared[j]) if i != j]
            cells = [Number(entropy, "bits", digits=2), Number(math.log2(digits.levels[j]), "bits", digits=2)]
            cells.append(Number(max(others, default=math.nan), "bits", digits=3))
            if timed:
                told = [(each[j] if each else math.nan) for each in (digits.phones, digits.chance)]
                cells += [Number(bits, "bits", items=digits.spoken, digits=3) for bits in told]
                cells.append(Number((told[0] - told[1]) / digits.phone_entropy, "1", digits=3))
            rows.append((f"{each.setting.name}: digit {j}", *cells))
    yield Table(
        "digits",
        "Digits of the semantic code: what each is worth by counts, and what it tells about any one other digit at the "
        "most. Digits have few levels, so that counts hardly mislead."
        + (
            " And what it tells about which phone sounds at the token's middle, in speech; the same with phones "
            "shuffled among tokens, which is what counting alone makes; and what is beyond that, as a share of the "
            "phones' entropy."
            if timed
            else ""
        ),
        ("setting: digit", "entropy (bits)", "at most (bits)", "about another digit (bits)")
        + (("about the phone (bits)", "shuffled phones (bits)", "share of the phones' entropy") if timed else ()),
        tuple(rows),
    )
    main = study.main.digits
    if main is not None and len(main.levels) > 1:
        yield Table(
            "digit_pairs",
            f"{study.main.setting.name}: mutual information of every two digits, in bits; a digit with itself is its "
            "entropy.",
            ("digit", *(f"digit {j}" for j in range(len(main.levels)))),
            tuple(
                (f"digit {i}", *(Number(float(v), "bits", digits=3) for v in row)) for i, row in enumerate(main.shared)
            ),
        )


def _flags(study: Study, found: list[SettingStudy]) -> Iterator[Block]:
    ways = list(dict.fromkeys(way for each in found if each.codes for way in each.codes.flags_bps))
    base = study.gathered.format.base_frame_rate
    rows = []
    for each in found:
        assert each.codes is not None
        bound = flag_limit_bps(min(base, each.frame_rate.value), base)
        cells = [
            Number.of(each.codes.flags_bps[way], "bit/s", "all bits over all seconds", 2)
            if way in each.codes.flags_bps
            else "–"
            for way in ways
        ]
        rows.append((each.setting.name, *cells, Number(bound, "bit/s", digits=2)))
    yield Table(
        "flags",
        "Ways to write durations down, in bits per second: a field in every token, a flag for every frame that says "
        "whether a token begins, and both coded by models that were made of other clips. The last column is what "
        "durations without any pattern would need at this rate, but for the cap.",
        ("setting", *ways, "without pattern"),
        tuple(rows),
    )


def loss(study: Study) -> Section:
    """Report what merging loses before anything is quantised."""
    found = study.gathered.distortion
    form = study.gathered.format
    tokens = study.gathered.clips[0].tokens[study.main.setting.name]
    width = form.semantic_bits + (form.duration_bits or 0) + tokens.num_codebooks * form.acoustic_bits
    lost = found.lost.sum(2) / max(float(found.whole.sum()), 1e-8)
    rates = found.tokens.sum(2) / found.seconds.sum()
    table = Table(
        "loss",
        "Share of the semantic features' energy that is lost when each frame becomes its token's mean (NMSE), and "
        "tokens per second.",
        ("rule", *(f"{rate:g} Hz" for rate in found.frame_rates)),
        tuple(
            (policy, *(Number(value, "1", items=len(found.seconds), how=f"at {rate:.2f} Hz", digits=3)
                       for value, rate in zip(values, realised, strict=True)))
            for policy, values, realised in zip(found.policies, lost, rates, strict=True)
        ),
    )  # fmt: skip
    figure = Figure(
        "loss",
        "What merging alone loses, before quantisation and without decoding, by the rule that chooses tokens. Lower is "
        "better; it says nothing of how speech sounds.",
        "Falling curves of NMSE against tokens per second for four rules.",
        draw_distortion(found, width),
    )
    return Section("What merging loses", (figure, table))
