"""Code lengths and entropies: against closed forms, on sources whose entropy is known, and at the edges."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from flexicodec.quantize.fsq import fsq_decode
from flexicodec.statistics.entropy import (
    STRENGTHS,
    CodebookUse,
    CountModel,
    SymbolSequence,
    assign_folds,
    boundary_flags,
    codebook_use,
    counts_entropy,
    digit_information,
    fsq_digits,
    held_out_bits,
    miller_madow_entropy,
    previous_symbols,
    table_information,
)

TRANSITIONS = np.array([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])


def entropy_of(shares):
    return float(stats.entropy(shares, base=2))


def plug_in_entropy(symbols):
    return counts_entropy(np.unique(symbols, return_counts=True)[1])


def per_symbol(sources, size, **settings):
    return held_out_bits(sources, size, **settings).sum() / sum(len(source.symbols) for source in sources)


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def chains(random):
    """Forty clips of a Markov chain of three states, from its stationary distribution."""

    def chain(length):
        states = [int(random.choice(3, p=stationary()))]
        for value in random.random(length - 1):
            states.append(int(np.searchsorted(np.cumsum(TRANSITIONS[states[-1]]), value)))
        return np.minimum(states, 2)

    return [chain(400) for _ in range(40)]


def stationary():
    return np.linalg.matrix_power(TRANSITIONS, 200)[0]


# ------------------------------------------------------------------------------------------------------- code lengths


def test_a_markov_chain_costs_its_entropy_rate(chains):
    """Order 0 finds the entropy of the stationary distribution, order 1 the entropy rate, and order 2 no more."""
    rate = float(stationary() @ [entropy_of(row) for row in TRANSITIONS])
    orders = [
        [SymbolSequence(c, tuple(previous_symbols(c, back) for back in range(1, n + 1))) for c in chains]
        for n in range(3)
    ]
    zero, one, two = (per_symbol(sources, 3) for sources in orders)
    assert zero == pytest.approx(entropy_of(stationary()), abs=0.03)
    assert one == pytest.approx(rate, abs=0.03)
    assert one < two < one + 0.01


def test_no_model_beats_the_entropy(random):
    """Far too few uniform symbols of a large alphabet: the plug-in entropy is biased, code lengths are not."""
    clips = [random.integers(0, 4096, 200) for _ in range(10)]
    assert plug_in_entropy(np.concatenate(clips)) < 11
    for sources in ([SymbolSequence(c) for c in clips], [SymbolSequence(c, (previous_symbols(c),)) for c in clips]):
        assert per_symbol(sources, 4096) > 12


def test_probabilities_sum_to_one(chains):
    model = CountModel(
        [SymbolSequence(c[:30], (previous_symbols(c[:30]), previous_symbols(c[:30], 2))) for c in chains[:2]], 5
    )
    for context in ((0, 0), (2, 1), (-1, -1), (4, 4), (900, 0)):  # seen, and never seen
        given = tuple(np.array([value]) for value in context)
        total = sum(2.0 ** -model.bits(SymbolSequence(np.array([symbol]), given))[0] for symbol in range(5))
        assert total == pytest.approx(1.0)


def test_counts_lean_as_each_clip_wants_the_others_to(random):
    """Again with plain counting: of all strengths the one by which the other clips code a clip best."""
    clips = [random.choice(4, p=[0.6, 0.3, 0.1, 0.0], size=9) for _ in range(3)]

    def share(symbol, others, strength):
        return (others.count(symbol) + strength / 4) / (len(others) + strength)

    def cost(strength):
        others = [[int(s) for j, clip in enumerate(clips) if j != i for s in clip] for i in range(3)]
        return -sum(np.log2(share(s, others[i], strength)) for i in range(3) for s in clips[i].tolist())

    best = min(STRENGTHS, key=cost)
    seen = np.concatenate(clips).tolist()
    shares = 2.0 ** -CountModel([SymbolSequence(clip) for clip in clips], 4).bits(SymbolSequence(np.arange(4)))
    assert best not in (STRENGTHS[0], STRENGTHS[-1])
    assert shares == pytest.approx([share(symbol, seen, best) for symbol in range(4)])


def test_contexts_that_tell_nothing_cost_next_to_nothing(random):
    clips = [random.choice(50, p=np.arange(1, 51) / 1275, size=100) for _ in range(20)]
    alone = per_symbol([SymbolSequence(clip) for clip in clips], 50)
    scattered = per_symbol(
        [SymbolSequence(clip, (previous_symbols(clip), previous_symbols(clip, 2))) for clip in clips], 50
    )
    assert abs(scattered - alone) < 0.01


def test_one_clip_tells_nothing_of_others():
    model = CountModel([SymbolSequence(np.zeros(50, dtype=int))], 8)
    assert model.bits(SymbolSequence(np.array([0, 7]))) == pytest.approx([3.0, 3.0], abs=1e-4)


def test_what_is_known_helps(random):
    """A code determined by the previous one of the token costs almost nothing given it."""
    first = [random.integers(0, 16, 300) for _ in range(20)]
    second = [(7 * code + 3) % 16 for code in first]
    alone = per_symbol([SymbolSequence(code) for code in second], 16)
    given = per_symbol([SymbolSequence(code, (known,)) for code, known in zip(second, first, strict=True)], 16)
    assert alone == pytest.approx(4.0, abs=0.02)
    assert given < 0.05


def test_flags_that_know_the_age_cost_what_durations_cost(random):
    """Durations without memory: coded by themselves or as flags per frame, the same; flags without age cost h(rate)."""
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    clips = [random.choice(4, p=shares, size=400) + 1 for _ in range(40)]
    tokens = sum(map(len, clips))
    flags = [boundary_flags(clip) for clip in clips]
    durations = held_out_bits([SymbolSequence(clip - 1) for clip in clips], 4).sum() / tokens
    aged = held_out_bits(flags, 2).sum() / tokens
    ageless = held_out_bits([SymbolSequence(each.symbols) for each in flags], 2).sum() / tokens
    mean = float(shares @ [1, 2, 3, 4])
    assert durations == pytest.approx(entropy_of(shares), abs=0.02)
    assert aged == pytest.approx(durations, abs=0.02)
    assert ageless == pytest.approx(mean * entropy_of([1 / mean, 1 - 1 / mean]), abs=0.02)


def test_flags_say_where_tokens_begin():
    flags = boundary_flags(np.array([2, 1, 3]))
    assert flags.symbols.tolist() == [0, 1, 1, 0, 0]  # frames 1 to 5; frame 0 always begins one
    assert flags.contexts[0].tolist() == [0, 1, 0, 0, 1]


def test_previous_shifts():
    assert previous_symbols(np.array([4, 5, 6])).tolist() == [-1, 4, 5]
    assert previous_symbols(np.array([4, 5, 6]), 2).tolist() == [-1, -1, 4]
    assert previous_symbols(np.array([4]), 3).tolist() == [-1]


def test_a_clip_never_counts_itself(chains):
    """Each clip has its own symbol: no model can predict it."""
    clips = [SymbolSequence(np.full(50, i)) for i in range(6)]
    assert (held_out_bits(clips, 6, folds=6) > 50 * np.log2(6)).all()


def test_groups_stay_together():
    folds = assign_folds(6, 2, ["a", "b", "a", "c", "b", "a"])
    assert folds.tolist() == [0, 1, 0, 0, 1, 0]
    assert assign_folds(5, 2).tolist() == [0, 1, 0, 1, 0]


def test_clips_without_symbols_cost_nothing():
    clips = [SymbolSequence(np.array([0, 1])), SymbolSequence(np.array([], dtype=int)), SymbolSequence(np.array([1]))]
    assert held_out_bits(clips, 2, folds=3)[1] == 0


# ----------------------------------------------------------------------------------------------------------- entropies


def test_entropies_of_known_distributions():
    even = np.repeat(np.arange(8), 5)
    assert plug_in_entropy(even) == pytest.approx(3.0)
    assert plug_in_entropy(np.zeros(9, dtype=int)) == 0.0
    assert miller_madow_entropy(even) == pytest.approx(3.0 + 7 / (80 * np.log(2)))
    assert plug_in_entropy(np.array([3, 3, 9])) == pytest.approx(entropy_of([2, 1]))


def test_miller_and_madow_take_most_of_the_bias(random):
    clips = [random.integers(0, 16, 100) for _ in range(200)]
    plain = np.mean([plug_in_entropy(each) for each in clips])
    corrected = np.mean([miller_madow_entropy(each) for each in clips])
    assert 4 - plain > 0.08
    assert abs(4 - corrected) < 0.02


def test_tables_with_known_information():
    assert table_information(np.array([[5, 0], [0, 5]])) == pytest.approx(1)
    assert table_information(np.array([[4, 4], [2, 2]])) == pytest.approx(0, abs=1e-12)
    assert table_information(np.zeros((2, 2))) == 0
    assert counts_entropy(np.array([[1, 1], [2, 0]])) == pytest.approx(1.5)
    assert np.isnan(counts_entropy(np.zeros(3)))


def test_entropy_is_scipys_and_information_is_sklearns(random):
    table = random.integers(0, 4, (6, 9)) * (random.random((6, 9)) < 0.5)
    assert counts_entropy(table) == pytest.approx(entropy_of(table.ravel()), abs=1e-12)
    nats = mutual_info_score(None, None, contingency=table)
    assert table_information(table) == pytest.approx(nats / np.log(2), abs=1e-12)
    assert table_information(table) == pytest.approx(table_information(table.T), abs=1e-12)


# ------------------------------------------------------------------------------------------------- codebooks and digits


def test_codebook_use():
    found = codebook_use(np.array([5, 5, 7, 7]), 10)
    assert found == CodebookUse(10, 2, 1.0, 2.0)


def test_digits_are_fsqs(random):
    """In the order of `fsq_decode`, whose values are (digit - L // 2) / (L // 2)."""
    import torch

    levels = (8, 5, 7)
    codes = random.integers(0, 280, 50)
    halves = np.array([4, 2, 3])
    values = fsq_decode(torch.from_numpy(codes), levels).numpy()
    assert fsq_digits(codes, levels) == pytest.approx(values * halves + halves)
    assert fsq_digits(np.array([1]), levels).tolist() == [[1, 0, 0]]


def test_what_digits_share(random):
    first, other = random.integers(0, 8, 3000), random.integers(0, 8, 3000)
    information = digit_information(np.stack([first, first // 2, other], axis=1))
    assert information[0, 1] == pytest.approx(2.0, abs=0.01)
    assert information[0, 2] < 0.02
    assert np.diag(information) == pytest.approx([3.0, 2.0, 3.0], abs=0.01)
    assert information == pytest.approx(information.T)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SymbolSequence(np.array([0.5])), "expected integers"),
        (lambda: SymbolSequence(np.array([-1])), "is padding among them"),
        (lambda: SymbolSequence(np.array([[1]])), "one after another"),
        (lambda: SymbolSequence(np.array([1, 2]), (np.array([1]),)), "1 entries for 2 symbols"),
        (lambda: CountModel([], 3), "no clips"),
        (lambda: CountModel([SymbolSequence(np.array([1]))], 1.5), "expected the number of symbols"),
        (lambda: CountModel([SymbolSequence(np.array([3]))], 3), "outside an alphabet of 3"),
        (
            lambda: CountModel([SymbolSequence(np.array([0]))], 3).bits(SymbolSequence(np.array([4]))),
            "outside an alphabet of 3",
        ),
        (
            lambda: CountModel([SymbolSequence(np.array([0]))], 3).bits(
                SymbolSequence(np.array([0]), (np.array([0]),))
            ),
            "made with 0",
        ),
        (
            lambda: CountModel([SymbolSequence(np.array([0])), SymbolSequence(np.array([0]), (np.array([0]),))], 3),
            "differ in how many",
        ),
        (lambda: CountModel([SymbolSequence(np.array([0]), (np.array([2**40]),) * 2)], 3), "leave a context out"),
        (lambda: held_out_bits([SymbolSequence(np.array([0]))] * 3, 2), "folds is 5; expected 2 to 3"),
        (lambda: held_out_bits([SymbolSequence(np.array([0]))] * 3, 2, folds=1), "folds is 1"),
        (lambda: assign_folds(3, 2, ["a", "b"]), "2 groups for 3 clips"),
        (lambda: boundary_flags(np.array([2, 0])), "expected 1 or more"),
        (lambda: miller_madow_entropy(np.array([], dtype=int)), "no symbols"),
        (lambda: codebook_use(np.array([], dtype=int), 8), "no symbols"),
        (lambda: digit_information(np.zeros((0, 3), dtype=int)), "no symbols"),
        (lambda: codebook_use(np.array([8]), 8), "outside a codebook of 8"),
        (lambda: fsq_digits(np.array([64]), (8, 8)), "which make 64 codes"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
