"""What the words of the verdict mean: its rule in numbers, and a glossary."""

from scipy import stats

from evalkit.analysis.judgements import FAITHFULNESS, competitors, contenders
from evalkit.analysis.load import CONTROLS
from evalkit.analysis.significance import fewest_images
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALPHA, Verdict
from evalkit.output.method_names import display
from evalkit.output.verdict_words import and_list, by_metric, main_tests, metric_words, points_in

CORRECTED = {
    "holm": "after Holm's correction for all {} tests",
    "bh": "after Benjamini and Hochberg's correction for all {} tests",
    "none": "without a correction for the number of tests, {}",
}
MAPS = {
    "random": "random numbers",
    "constant": "the same value everywhere, so that the first pixels rank highest",
    "centre": "the nearness to the middle",
    "edges": "the strength of the image's edges",
    "fake_cam": "the same value everywhere but in one corner pixel",
}
"""What the controls are."""
WORDS = {
    "keep_top": "Kept: the pixels with the largest values of the map stay, the fill takes the place of the others.",
    "remove_top": "Removed: the fill takes the place of the pixels with the largest values of the map; there, the larger loss is better.",
    "soft": "Soft mask: the image times the map, scaled to [0,1], plus the fill times the rest.",
    "activation": "Confidence is the softmax of the explained class, activation its logit.",
    "average_drop": "Average drop: what the score loses, in percent of the score on the whole image; a gain counts as 0.",
    "increase": "Increase: the share of images whose score rises.",
    "win": "Win: the share of images on which the one loses less, minus the share on which the other does.",
    "srg": "Symmetric relevance gain: the area under the score while the least relevant pixels are removed first, minus that while the "
    "most relevant are removed first, at one fill (Bluecher et al. 2024).",
    "single_deletion": "Single deletion: the rank correlation, image by image, of the map's sums in the patches of a grid with what the "
    "score loses when that patch alone is removed (Hesse et al. 2024).",
    "road": "Road fill: the removed pixels are interpolated from those that stay, with a little noise (ROAD, Rong et al. 2022).",
}
"""What words of the page mean, by the score, metric or fill that needs them."""
POWER = 0.8


def rule(verdict: Verdict, number: int) -> list[str]:
    """Return what a judgement is, how many there are, and what "better" means."""
    judged = verdict.judged[number]
    table = judged.judgements[judged.judgements.question == FAITHFULNESS]
    points = points_in(table)
    single = table[table.metric.isin(["average_drop", "increase", "win"])]
    scores, metrics = list(dict.fromkeys(single.score)), list(dict.fromkeys(single.metric))
    of_scores = f", one score ({' or '.join(scores)})" if len(scores) > 1 else ""
    others = [metric_words(*key) for key, _ in by_metric(table[~table.metric.isin(metrics)])]
    if table.empty:
        return ["There is no judgement: protocol points that keep or remove 0 or 100 % of the pixels do not depend on the map."]
    text = (
        f"A judgement is one protocol point (which pixels stay, and what fills the others){of_scores} and one metric "
        f"({', '.join(metric_words(m, None, None) for m in metrics)}): "
        f"{len(table)} here, at {len(points)} point{'s' * (len(points) != 1)}"
    )
    text += f", counting {and_list(list(dict.fromkeys(others)))}." if others else "."
    tests = verdict.families.get(FAITHFULNESS, 0)
    pairs = len(judged.methods) * (len(judged.methods) - 1) // 2
    undefined = pairs * len(table) - tests if len(verdict.judged) == 1 else 0
    what = f"{pairs} pair{'s' * (pairs != 1)} x {len(table)} judgements" + (f", less {undefined} that are undefined" if undefined else "")
    what = f"of all {len(verdict.judged)} runs" if len(verdict.judged) > 1 else what
    corrected = CORRECTED[verdict.correction].format(f"{tests:,}") + f" ({what})"
    lines = [text]
    if pairs and not tests:
        lines.append("Nothing can be tested: that takes two images or more.")
    elif pairs:
        found = f"{corrected}{_largest_found(verdict)}"
        lines.append(f"Better and worse are paired differences over the images, significant at 5 % by sign-flip tests {found}.")
        lines += _detectable(verdict, number)
    if len(points) == 1:
        lines.append("There is one protocol point only, so nothing can be said about other fills and selections.")
    left = len(judged.run.methods) - len(competitors(judged.run))
    if left:
        versions = "1 control version of a method (with a + in its name) is" if left == 1 else f"{left} control versions (with a +) are"
        lines.append(f"{versions} left out: they are no competitors.")
    if any(method in CONTROLS for method in judged.methods):
        known = [f"{display(method).removesuffix(' (control)')} ({MAPS[method]})" for method in judged.methods if method in MAPS]
        lines.append(f"Controls are maps that do not look at the network: {', '.join(known)}.")
    return lines


def glossary(verdict: Verdict, number: int) -> list[str]:
    """Return what the words of a run's page mean."""
    table = verdict.judged[number].judgements
    table = table[table.question == FAITHFULNESS]
    used = {*table.metric, *table["select"].dropna(), *table["fill"].dropna(), *table.score.dropna()}
    return [words for word, words in WORDS.items() if word in used]


def floor_sentence(verdict: Verdict, number: int) -> list[str]:
    """Return that no difference of a run can be significant, where its images are too few for the number of tests; else nothing."""
    tests = verdict.of(number)
    if tests.empty or not tests.n.max() or verdict.correction == "bh":
        return []
    together = _together(verdict)
    n, needed = int(verdict.judged[number].run.counts()["scored"]), fewest_images(together, ALPHA, sides=2)
    if n >= needed:
        return []
    return [
        f"Nothing can be told: with {n} image{'s' * (n != 1)} and {together:,} test{'s' * (together != 1)}, no difference can be "
        f"significant, however large; that takes {needed} images or more."
    ]


def _detectable(verdict: Verdict, number: int) -> list[str]:
    """Return how large a difference must be to be found, from the intervals of pairs of methods under protocol points."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    tests = main_tests(verdict.of(number), main_score(judged.run))
    tests = tests[tests["first"].isin(methods) & tests.second.isin(methods) & (tests.high > tests.low)]
    errors = (tests.high - tests.low) / (2 * stats.norm.ppf(1 - ALPHA / 2))
    if errors.empty or verdict.correction == "bh" or floor_sentence(verdict, number):
        return []
    together = _together(verdict)
    low, size, high = errors.quantile([0.1, 0.5, 0.9]) * (stats.norm.ppf(1 - ALPHA / 2 / together) + stats.norm.ppf(POWER))
    spread = f"; {low:.1f} to {high:.1f}, depending on the pair and the protocol point" if f"{low:.1f}" != f"{high:.1f}" else ""
    return [
        f"Not told apart does not mean equal: with {int(tests.n.max()):,} images, a difference of average drop is found with "
        f"{100 * POWER:.0f} % probability if it is about {size:.1f} percentage points{spread}."
    ]


def _together(verdict: Verdict) -> int:
    """Return by how much the smallest p is multiplied; not for Benjamini and Hochberg's correction."""
    return verdict.families[FAITHFULNESS] if verdict.correction == "holm" else 1


def _largest_found(verdict: Verdict) -> str:
    """Return the largest uncorrected p that is significant, as text; empty where none is."""
    found = verdict.tests[(verdict.tests.found != 0) & (verdict.tests.question == FAITHFULNESS)]
    return "" if found.empty or verdict.correction == "none" else f"; the largest p that is significant is {found.p.max():.1e} uncorrected"
