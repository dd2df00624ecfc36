// The leaderboard: one view at a time, named by the address. bars.js stands before it.

const ALL = "all";
const { runs, metrics, row: names } = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choice");
const SCORES = { confidence: "confidence", activation: "activation (logit)", score: "score" };
const PAIRED = ["average_drop", "increase", "win"];
const LABELS = { data: "images", model: "network", point: "protocol point", score: "score", metric: "metric" };
const NAMED = ", named shards";
const BY = "better than the best control by";

// ---- the view: what the address says, completed and mended by what there is

const DEFAULTS = { data: "", model: "", point: "", score: "", metric: "", text: "", controls: "1", beaten: "0", sort: "1", order: "best" };

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

function address(view) {
  return `#${new URLSearchParams(view)}`;
}

function options(view) {
  const data = [[ALL, "all"], ...new Map(runs.map((run) => [run.images_hash, run.data_label]))];
  if (data.length === 2) data.shift();
  const mended = [];
  const choose = (name, list) => {
    if (!list.some(([key]) => key === view[name])) {
      if (view[name]) mended.push(name);
      view[name] = list[0]?.[0] ?? "";
    }
    return list;
  };
  const lists = { data: choose("data", data) };
  const onData = runs.filter((run) => view.data === ALL || run.images_hash === view.data);
  const twice = (run) => onData.some((other) => other.label === run.label && other.setting !== run.setting);
  const models = [[ALL, "all, side by side"], ...new Map(onData.map((run) => [run.setting, twice(run) ? `${run.label} on ${run.data_label}` : run.label]))];
  if (models.length === 2) models.shift();
  lists.model = choose("model", models);
  const chosen = onData.filter((run) => view.model === ALL || run.setting === view.model);
  lists.point = choose("point", [...new Map(chosen.flatMap((run) => run.points.map((one) => [one.key, one.name])))]);
  const kinds = chosen.flatMap((run) => run.kinds);
  lists.score = choose("score", unique(kinds.map((kind) => kind.score)).map((score) => [score, SCORES[score]]));
  lists.metric = choose("metric", unique(kinds.filter((kind) => kind.score === view.score).map((kind) => kind.metric)).map((one) => [one, metrics[one]]));
  return { lists, chosen, mended };
}

// ---- the columns: runs of one network and weights on the same images, with as many of them scored

function columns(view, chosen) {
  const found = new Map();
  for (const run of chosen) {
    const point = run.points.findIndex((one) => one.key === view.point);
    const kind = run.kinds.findIndex((one) => one.score === view.score && one.metric === view.metric);
    if (point < 0 || kind < 0) continue;
    const rows = run.rows
      .filter((cells) => cells[0] === point && cells[1] === kind)
      .map((cells) => ({ ...Object.fromEntries(names.map((name, i) => [name, cells[i + 2]])), run, runs: [run] }));
    const key = `${run.setting} ${run.images.scored}`;
    const column = found.get(key) ?? { label: run.label, data: run.data_label, scored: run.images.scored, run, runs: [], rows: [], lower: run.kinds[kind].lower[point] };
    column.runs.push(run);
    column.rows.push(...rows);
    found.set(key, column);
  }
  return [...found.values()].map(completed);
}

// The best control of a column of several runs is the best of all of them; the same numbers from several runs stand once.
function completed(column) {
  const seen = new Map();
  for (const row of column.rows) {
    const twin = (seen.get(row.method) ?? []).find((other) => ["value", "low", "high"].every((name) => other[name] === row[name]));
    if (twin) twin.runs.push(row.run);
    else seen.set(row.method, [...(seen.get(row.method) ?? []), row]);
  }
  const rows = [...seen.values()].flatMap((same) =>
    same.map((row) => ({ ...row, title: same.length > 1 ? `${row.method} (run ${row.run.short})` : row.method })));
  const better = (a, b) => (column.lower ? a < b : a > b);
  const floors = rows.filter((row) => row.control && row.value !== null && rows.some((other) => other.run === row.run && other.floor === row.method));
  const floor = floors.reduce((best, row) => (best === null || better(row.value, best.value) ? row : best), null);
  for (const row of rows) row.beats = row.control || row.value === null || !floor ? null : beats(row, floor, column.lower);
  const widths = rows.filter((row) => row.low !== null && row.high > row.low).map((row) => row.high - row.low).sort((a, b) => a - b);
  const width = widths.length ? widths[Math.floor(widths.length / 2)] : 1;
  return { ...column, rows, floor, better, digits: Math.min(3, Math.max(0, Math.ceil(-Math.log10(width / 20)))) };
}

// Whether a row's difference to its best control is one to the best control of its column.
function paired(row, floor) {
  return floor.runs.includes(row.run) && row.floor === floor.method;
}

// yes: better than the best control; no: worse; unsure: neither can be told.
function beats(row, floor, lower) {
  if (paired(row, floor) && row.gain_low !== null) {
    return row.gain_low > 0 ? "yes" : row.gain_high < 0 ? "no" : "unsure";
  }
  if (row.low === null || floor.low === null) return "unsure";
  if (lower ? row.high < floor.low : row.low > floor.high) return "yes";
  return (lower ? row.low > floor.high : row.high < floor.low) ? "no" : "unsure";
}

const isVerified = (run) => Boolean(run.verified?.badge);

// One badge for all runs of a column, that of the smallest share; how many are verified, where not all are.
function badge(column) {
  const checked = column.runs.filter(isVerified);
  if (!checked.length) return [];
  const title = column.runs.map((run) => `run ${run.short}: ${run.verified?.says ?? "Not verified."}`).join("\n");
  if (checked.length < column.runs.length) return [" ", element("span", { className: "badge dull", title }, `${checked.length} of ${column.runs.length} runs verified`)];
  const least = checked.reduce((one, other) => (other.verified.share < one.verified.share ? other : one)).verified;
  const more = !least.named && checked.some((run) => run.verified.named) ? NAMED : "";
  return [" ", element("span", { className: "badge", title }, least.badge + more)];
}

function unverified(row, column) {
  return column.runs.some(isVerified) && !row.runs.some(isVerified) ? "run not verified" : "";
}

function flag(row, column) {
  if (row.control) return row === column.floor ? "the best control" : "";
  if (row.value === null) return "";
  if (row.beats === null) return "no control to beat";
  return { yes: "", no: `worse than ${column.floor.title}`, unsure: `not better than ${column.floor.title}` }[row.beats];
}

// ---- the table

// Columns of the same images have the same axis.
function oneAxis(shown) {
  return unique(shown.map((column) => column.run.images_hash)).length === 1;
}

function sorted(titles, shown, view) {
  const column = shown[Math.max(0, Number(view.sort) - 1)] ?? shown[0];
  const back = view.order === "worst" ? -1 : 1;
  if (view.sort === "0") return titles.sort((a, b) => back * a.localeCompare(b, "en"));
  const number = (title) => {
    const row = column.rows.find((one) => one.title === title);
    return row ? (view.sort === "gain" ? row.gain : row.value) : null;
  };
  const ascending = view.sort !== "gain" && column.lower ? 1 : -1;
  return titles.sort((a, b) => {
    const [first, second] = [number(a), number(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    return back * ascending * (first - second) || a.localeCompare(b, "en");
  });
}

function heading(label, key, view, className, ...more) {
  const active = view.sort === key;
  const arrow = active ? (view.order === "worst" ? " ▲" : " ▼") : "";
  const button = element("button", { type: "button", title: `sort by ${label}` }, element("span", { className: "cut" }, label), arrow);
  button.dataset.sort = key;
  button.addEventListener("click", () => go({ sort: key, order: active && view.order === "best" ? "worst" : "best" }));
  const cell = element("th", { scope: "col", className }, button, ...more);
  cell.setAttribute("aria-sort", active ? (view.order === "worst" ? "ascending" : "descending") : "none");
  return cell;
}

function about(column, linked) {
  const of = element("div", { className: "of" }, `${column.run.data.name} (${column.run.data.fingerprint.slice(0, 8)}), ${column.scored.toLocaleString("en")} of ${column.run.images.total.toLocaleString("en")} images`);
  of.append(...badge(column));
  for (const run of column.runs) {
    if (linked && run.report) of.append(" ", element("a", { href: run.report, rel: "noreferrer", textContent: "report" }));
  }
  return of;
}

function headings(shown, view, scales) {
  const first = heading("method", "0", view, "name");
  if (shown.length > 1) {
    return [first, ...shown.map((column, i) => heading(column.label, String(i + 1), view, "cell", about(column, true), axis(scales[i])))];
  }
  const label = `${metrics[view.metric]}, ${betterDirection(shown[0])}`;
  const line = [first, heading(label, "1", view, "numbers"), element("th", { scope: "col", className: "chart", ariaLabel: "interval" }, axis(scales[0]))];
  return PAIRED.includes(view.metric) && shown[0].floor ? [...line, heading(BY, "gain", view, "gain")] : line;
}

function betterDirection(column) {
  return column.lower ? "lower is better" : "higher is better";
}

function line(title, shown, view, scales) {
  const cells = shown.map((column) => column.rows.find((row) => row.title === title));
  const control = cells.some((row) => row?.control);
  const name = element("span", { className: "cut", title }, title);
  const tr = element("tr", { className: control ? "control" : "" }, element("th", { scope: "row", className: "name" }, name));
  shown.forEach((column, i) => {
    const row = cells[i];
    const said = row ? [flag(row, column), unverified(row, column)].filter(Boolean).join("; ") : "";
    const numbers = row ? [element("span", { className: "numbers" }, text(row.value, column.digits), ...(row.value === null ? [] : [interval(row.low, row.high, column.digits)]))] : [element("span", { className: "flag", textContent: "not in this run" })];
    if (said) numbers.push(element("span", { className: "flag", textContent: said }));
    if (shown.length > 1) {
      const cell = element("td", { className: "cell" }, element("div", { className: "said" }, ...numbers), ...(row ? [bar(row, scales[i])] : []));
      cell.dataset.of = column.label;
      tr.append(shaded(cell, column, scales[i]));
      return;
    }
    tr.append(element("td", {}, ...numbers), shaded(element("td", { className: "chart" }, bar(row, scales[0])), column, scales[0]));
    if (PAIRED.includes(view.metric) && column.floor) {
      const known = row !== column.floor && row.gain !== null && paired(row, column.floor);
      const gain = element("td", { className: known ? "gain known" : "gain" }, known ? `${text(row.gain, column.digits)}${interval(row.gain_low, row.gain_high, column.digits)}` : "");
      gain.dataset.of = BY;
      tr.append(gain);
    }
  });
  return tr;
}

function board(shown, view) {
  const scales = oneAxis(shown) ? shown.map(() => scaleOf(shown)) : shown.map((column) => scaleOf([column]));
  const wanted = view.text.trim().toLowerCase();
  const of = (title) => shown.flatMap((column) => column.rows.filter((row) => row.title === title));
  const titles = unique(shown.flatMap((column) => column.rows.map((row) => row.title))).filter((title) => title.toLowerCase().includes(wanted));
  const controls = view.controls === "1" ? titles.filter((title) => of(title).some((row) => row.control)) : [];
  const methods = titles.filter((title) => of(title).every((row) => !row.control) && (view.beaten !== "1" || of(title).every((row) => row.beats === "yes")));
  const body = (list) => element("tbody", {}, ...sorted(list, shown, view).map((title) => line(title, shown, view, scales)));
  const table = element("table", { className: shown.length > 1 ? "board several" : "board" },
    element("thead", {}, element("tr", {}, ...headings(shown, view, scales))), body(methods), ...(controls.length ? [body(controls)] : []));
  return { table: element("div", { className: "scroll" }, table), methods: methods.length, controls: controls.length };
}

// ---- sentences

function sentences(view, shown, chosen, mended) {
  const said = mended.length ? [`This page does not have the ${mended.map((name) => LABELS[name]).join(" and ")} of its address: what is shown is the first there is.`] : [];
  if (shown.length > 1) said.push(`${metrics[view.metric]}: ${unique(shown.map(betterDirection)).join("; ")}.`);
  if (!oneAxis(shown)) {
    said.push("The columns are measured on different images: compare methods within a column, not numbers across columns.");
  } else if (shown.length > 1) said.push("Compare methods within a column, not numbers across columns.");
  for (const [setting, label] of new Map(shown.map((column) => [column.run.setting, column.label]))) {
    const sizes = shown.filter((column) => column.run.setting === setting).map((column) => column.scored);
    if (sizes.length > 1) said.push(`Runs of ${label} with ${sizes.join(" and ")} images scored are not ranked together: each has a column.`);
  }
  const idle = shown.filter((column) => column.floor && column.rows.some((row) => !row.control) && column.rows.every((row) => row.beats !== "yes"));
  if (idle.length) {
    const named = unique(idle.map((column) => (shown.length > 1 ? `${column.floor.method} on ${column.label}` : column.floor.method)));
    said.push(`No method is better than ${named.join(", nor than ")}: what is rewarded here need not be what the network uses.`);
  }
  const lacking = unique(chosen.filter((run) => !shown.some((column) => column.run.setting === run.setting)).map((run) => run.label));
  if (lacking.length) said.push(`Without this protocol point and metric, and not shown: ${lacking.join("; ")}.`);
  return said;
}

function notes(view, shown) {
  const against = unique(shown.flatMap((column) => column.rows.map((row) => row.against))).filter(Boolean);
  const said = [];
  if (view.metric === "win") said.push(`Win is against one other method (${against.join(", ")}): the share of images on which the drop is smaller. Values against different methods are not comparable.`);
  if (view.metric === "best_of_all") said.push("Best of all depends on which methods a run has.");
  if (view.metric === "score_change") said.push("After minus before, in points of confidence or units of the logit.");
  if (shown.length > 1) said.push(oneAxis(shown) ? "All columns have the same axis." : "Each column has its own axis.");
  return said.join(" ");
}

// ---- from address to page

function fill(select, list, value) {
  select.replaceChildren(...list.map(([key, label]) => element("option", { value: key, textContent: label, selected: key === value })));
  select.disabled = list.length < 2;
}

function render() {
  const view = read();
  const { lists, chosen, mended } = options(view);
  const focused = document.activeElement?.dataset?.sort;
  for (const [name, list] of Object.entries(lists)) fill(form.elements[name], list, view[name]);
  if (document.activeElement !== form.elements.text) form.elements.text.value = view.text;
  form.elements.controls.checked = view.controls === "1";
  form.elements.beaten.checked = view.beaten === "1";
  const shown = columns(view, chosen);
  const cautions = unique(shown.flatMap((column) => column.runs.flatMap((run) => run.cautions.map((one) => (chosen.length > 1 ? `${run.label}: ${one}` : one)))));
  const box = element("div", { className: "caution" }, ...cautions.map((one) => element("p", { textContent: one })));
  box.setAttribute("role", "note");
  document.getElementById("cautions").replaceChildren(...(cautions.length ? [box] : []));
  const place = document.getElementById("board");
  if (!shown.length) {
    place.replaceChildren(element("p", { textContent: "No run has this protocol point and metric." }));
    document.getElementById("says").textContent = "";
    return;
  }
  const { table, methods, controls } = board(shown, view);
  const one = shown.length === 1 ? [element("p", { className: "facts" }, element("strong", { textContent: shown[0].label }), about(shown[0], true))] : [];
  place.replaceChildren(...one, table);
  document.getElementById("says").textContent = [`${methods} method${methods === 1 ? "" : "s"}, ${controls} control${controls === 1 ? "" : "s"}.`, ...sentences(view, shown, chosen, mended)].join(" ");
  document.getElementById("notes").textContent = notes(view, shown);
  if (focused !== undefined) document.querySelector(`button[data-sort="${CSS.escape(focused)}"]`)?.focus();
}

function current() {
  const view = read();
  options(view);
  return view;
}

function go(changes) {
  location.hash = address({ ...current(), ...changes });
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => {
  const { name, type, checked, value } = event.target;
  if (name === "text") return;
  const changes = { [name]: type === "checkbox" ? (checked ? "1" : "0") : value };
  if (["data", "model"].includes(name)) Object.assign(changes, { sort: "1", order: "best" });
  go(changes);
});
form.elements.text.addEventListener("input", () => {  // a view of its own, without a step back for each letter
  history.replaceState(null, "", address({ ...current(), text: form.elements.text.value }));
  render();
});
window.addEventListener("hashchange", render);
render();
