"""What the words of the verdict mean: its rule in numbers, and a glossary."""

from scipy import stats

from evalkit.analysis.judgements import FAITHFULNESS, competitors, contenders
from evalkit.analysis.load import CONTROLS
from evalkit.analysis.summary import main_score
from evalkit.analysis.verdict import ALPHA, Verdict
from evalkit.output.verdict_words import and_list, by_metric, main_tests, metric_words, points_in

CORRECTED = {
    "holm": "after Holm's correction for all {} tests",
    "bh": "after Benjamini and Hochberg's correction for all {} tests",
    "none": "without a correction for the number of tests, {}",
}
WORDS = {
    "activation": "Confidence is the softmax of the explained class, activation its logit.",
    "average_drop": "Average drop: what the score loses, in percent of the score on the whole image; a gain counts as 0.",
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
    text = (
        f"A judgement is one protocol point (which pixels stay, and what fills the others){of_scores} and one metric "
        f"({' or '.join(metric_words(m, None, None) for m in metrics)}): "
        f"{len(table)} here, at {len(points)} point{'s' * (len(points) != 1)}"
    )
    text += f", counting {and_list(list(dict.fromkeys(others)))}." if others else "."
    tests = verdict.families.get(FAITHFULNESS, 0)
    pairs = len(judged.methods) * (len(judged.methods) - 1) // 2
    undefined = pairs * len(table) - tests if len(verdict.judged) == 1 else 0
    what = f"{pairs} pair{'s' * (pairs != 1)} x {len(table)} judgements" + (f", less {undefined} that are undefined" if undefined else "")
    what = f"of all {len(verdict.judged)} networks" if len(verdict.judged) > 1 else what
    corrected = CORRECTED[verdict.correction].format(f"{tests:,}") + f" ({what})"
    lines = [text]
    if pairs and not tests:
        lines.append("Nothing can be tested: that takes two images or more.")
    elif pairs:
        lines.append(f"Better and worse are paired differences over the images, significant at 5 % by sign-flip tests {corrected}.")
        lines += _detectable(verdict, number)
    if len(points) == 1:
        lines.append("There is one protocol point only, so nothing can be said about other fills and selections.")
    left = len(judged.run.methods) - len(competitors(judged.run))
    if left:
        versions = "1 control version of a method (with a + in its name) is" if left == 1 else f"{left} control versions (with a +) are"
        lines.append(f"{versions} left out: they are no competitors.")
    if any(method in CONTROLS for method in judged.methods):
        lines.append("Controls are maps that do not look at the network.")
    return lines


def glossary(verdict: Verdict, number: int) -> list[str]:
    """Return what the words of a run's page mean."""
    table = verdict.judged[number].judgements
    table = table[table.question == FAITHFULNESS]
    used = {*table.metric, *table["fill"].dropna(), *table.score.dropna()}
    return [words for word, words in WORDS.items() if word in used]


def _detectable(verdict: Verdict, number: int) -> list[str]:
    """Return how large a difference must be to be found, from the intervals: the median over pairs of methods and protocol points."""
    judged = verdict.judged[number]
    methods = contenders(judged.methods)
    tests = main_tests(verdict.of(number), main_score(judged.run))
    tests = tests[tests["first"].isin(methods) & tests.second.isin(methods)]
    errors = ((tests.high - tests.low) / (2 * stats.norm.ppf(1 - ALPHA / 2))).dropna()
    if errors.empty or verdict.correction == "bh":
        return []
    together = verdict.families[FAITHFULNESS] if verdict.correction == "holm" else 1
    size = float(errors.median()) * (stats.norm.ppf(1 - ALPHA / 2 / together) + stats.norm.ppf(POWER))
    return [
        f"Not told apart does not mean equal: with {int(tests.n.max()):,} images, a difference of average drop is found with "
        f"{100 * POWER:.0f} % probability if it is about {size:.0f} points (median over pairs of methods and points)."
    ]
