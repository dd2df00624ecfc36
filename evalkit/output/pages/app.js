"use strict";
const start = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// What is asked, mirrored in the address; null leaves the choice to the network.
const wanted = { photo: start.photos[0].key, model: start.models[0], random: false, layer: null, target: start.target,
  methods: start.methods.filter((method) => method.chosen).map((method) => method.name), ...start.point };
// What is shown: which network, which view of it, and the methods whose maps of that view are drawn.
let network = null, networkKey = "", view = null, viewKey = "";
const drawn = new Set(), panels = new Map();

const networkAsked = () => ({ model: wanted.model, random: wanted.random });
const viewAsked = () => ({ ...networkAsked(), photo: wanted.photo, layer: wanted.layer, target: wanted.target });
const viewShown = () => ({ photo: view.photo, layer: view.layer, target: view.target.index });
const pointAsked = () => ({ select: wanted.select, top_percent: wanted.select === "soft" ? null : wanted.top, fill: wanted.fill });
const questionAsked = (methods, heat) => ({ view: viewAsked(), methods, point: pointAsked(), heat });
const inOrder = (isWanted) => start.methods.map((method) => method.name).filter(isWanted);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function send(path, body) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body, headers: { "X-Evalkit-Token": start.token } });
  } catch {
    throw new Error("the server does not answer: does evalkit app still run?");
  }
  if (answer.ok) return answer;
  const said = answer.headers.get("content-type")?.startsWith("application/json") ? (await answer.json()).error : null;
  throw new Error(said ?? "the server failed; its terminal says why");
}
const ask = async (path, question) => (await send(path, JSON.stringify(question))).json();
const tell = (text) => { $("status").textContent = text; };
const complain = (text) => { $("problem").textContent = text; };

// One question at a time, and always the latest: what changes meanwhile is asked as soon as the answer is there.
let dirty = false, busy = false;
function setBusy(is) {
  busy = is;
  $("answers").setAttribute("aria-busy", is);
}

async function changed() {
  dirty = true;
  writeAddress();
  showChoices();
  if (busy) return;
  setBusy(true);
  while (dirty) {
    dirty = false;
    try {
      await answer();
    } catch (mistake) {
      if (!dirty) complain(mistake.message);
    }
  }
  setBusy(false);
  tell("");
}

function choose(change) {
  complain("");
  Object.assign(wanted, change);
  return changed();
}

async function answer() {
  if (networkKey !== JSON.stringify(networkAsked())) await openNetwork();
  if (!dirty && viewKey !== JSON.stringify(viewAsked())) await openView();
  const known = wanted.methods.filter((name) => drawn.has(name));
  const others = wanted.methods.filter((name) => !drawn.has(name));
  for (const methods of [known, ...others.map((name) => [name])]) {
    if (dirty) return;
    if (methods.length) await explain(methods);
  }
}

async function openNetwork() {
  const asked = networkAsked();
  tell(`opening ${asked.model} …`);
  clearView();
  network = null;
  networkKey = "";
  $("random").hidden = true;
  try {
    network = await ask("network", asked);
    networkKey = JSON.stringify(asked);
  } catch (mistake) {
    $("random").hidden = dirty || asked.random;
    throw mistake;
  } finally {
    showNetwork();
    showChoices();
  }
}

async function openView() {
  const asked = viewAsked();
  tell("looking …");
  for (const panel of panels.values()) panel.setAttribute("aria-busy", "true");
  try {
    view = { ...await ask("view", asked), photo: asked.photo };
  } catch (mistake) {
    const last = view === null ? { photo: start.photos[0].key, layer: null, target: null } : viewShown();
    if (dirty || JSON.stringify({ ...asked, ...last }) === JSON.stringify(asked)) throw mistake;
    Object.assign(wanted, last);  // no such photograph, layer or class: what was shown last stands
    dirty = true;
    writeAddress();
    showChoices();
    complain(mistake.message);
    return;
  }
  viewKey = "";
  drawn.clear();
  if (dirty) return;
  Object.assign(wanted, viewShown());
  viewKey = JSON.stringify(viewAsked());
  if (!document.querySelector(`[data-photo="${CSS.escape(view.photo)}"]`)) addPhoto({ key: view.photo, name: view.name, thumbnail: view.picture });
  writeAddress();
  showView();
  showChoices();
}

async function explain(methods) {
  const key = viewKey, fresh = !drawn.has(methods[0]);
  if (fresh) tell(`computing ${methods[0]} …`);
  const found = await ask("explain", questionAsked(methods, fresh));
  if (key !== viewKey) return;
  for (const name of methods.filter((method) => wanted.methods.includes(method))) {
    drawPanel(name, found.methods[name], found.pixels);
    drawn.add(name);
  }
  showPanels();
}

function clearView() {
  view = null;
  viewKey = "";
  drawn.clear();
  panels.clear();
  showPanels();
  showView();
}

// The choices, as the page shows them.
function showNetwork() {
  const layers = network?.layers ?? [], names = network?.classes ?? [];
  $("layer").replaceChildren(...layers.map(({ name, channels, height, width }) =>
    make("option", { value: name }, `${name}${name === network.layer ? " (proposed)" : ""}: ${channels} maps of ${height} x ${width}`)));
  $("classes").replaceChildren(...names.map((name, index) => names.indexOf(name) === names.lastIndexOf(name)
    ? make("option", { value: name }) : make("option", { value: index, label: `${name} (${index})` })));
  const top1 = network === null || network.random || network.top1 === null ? "" : `; top-1 ${network.top1.toFixed(1)} %`;
  $("about").textContent = network === null ? "" : `${names.length} classes; weights: ${network.weights}${top1}`;
  $("weights").textContent = network?.random ? "RANDOM WEIGHTS: this network has learnt nothing, and its maps explain nothing." : "";
}

function showChoices() {
  for (const button of $("photos").children) button.setAttribute("aria-pressed", button.dataset.photo === wanted.photo);
  for (const button of $("top").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.target === String(wanted.target));
  for (const box of $("methods").querySelectorAll("input")) box.checked = wanted.methods.includes(box.value);
  for (const name of ["model", "select", "fill"]) $(name).value = wanted[name];
  if (network !== null) $("layer").value = wanted.layer ?? network.layer;
  $("top-percent").value = wanted.top;
  $("top-percent").disabled = wanted.select === "soft";
  $("percent").textContent = wanted.select === "soft" ? "–" : `${wanted.top} %`;
}

function showView() {
  $("picture").hidden = view === null;
  $("download").disabled = view === null;
  $("question").textContent = view === null ? "Why?" : `Why “${view.target.name}”? Confidence ${short(view.target.confidence)}`;
  const classes = view === null ? [] : view.top.some((found) => found.index === view.target.index) ? view.top : [...view.top, view.target];
  $("top").replaceChildren(...classes.map((found) => {
    const button = make("button", { type: "button", "data-target": found.index }, make("span", {}, found.name),
      make("span", {}, short(found.confidence)), make("meter", { value: found.confidence ?? 0, "aria-hidden": "true" }));
    button.addEventListener("click", () => choose({ target: found.index }));
    return make("li", {}, button);
  }));
  if (view === null) return;
  $("picture").src = view.picture;
  $("picture").alt = `${view.name}, as the network sees it`;
  $("picture").classList.toggle("small", view.width < 150);
}

// The answers.
function showPanels() {
  for (const name of [...panels.keys()]) if (!wanted.methods.includes(name)) panels.delete(name);
  const shown = wanted.methods.map((name) => panels.get(name)).filter(Boolean);
  if (shown.some((panel, i) => panel !== $("panels").children[i]) || shown.length !== $("panels").children.length) $("panels").replaceChildren(...shown);
}

function drawPanel(name, found, pixels) {
  const panel = panels.get(name) ?? make("article", { class: "explained", "data-method": name });
  panels.set(name, panel);
  panel.removeAttribute("aria-busy");
  const map = found.heat ?? panel.querySelector("img")?.src, title = make("h3", {}, name);
  if (found.error !== undefined) {
    panel.replaceChildren(title, make("p", { class: "warn" }, `${name} cannot answer: ${found.error}`));
    return;
  }
  const kept = found.kept === null ? "as bright as the map" : `${found.kept.toLocaleString("en")} of ${pixels.toLocaleString("en")} pixels`;
  const picture = (src, alt, caption) =>
    make("figure", {}, make("img", { src, alt, class: view.width < 150 ? "small" : "" }), make("figcaption", {}, caption));
  panel.replaceChildren(title, make("div", { class: "pictures" }, picture(map, `map of ${name} over the photograph`, "the map"),
    picture(found.picture, `what ${name} leaves of the photograph`, kept)),
  make("table", {}, make("thead", {}, make("tr", {}, ...["", "before", "after", "drop"].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, scoreRow("confidence", found.confidence), scoreRow("score (logit)", found.logit))));
  if (found.constant) panel.append(make("p", { class: "warn" }, "This map is constant: their place in the image alone decides which pixels are its top."));
}

function scoreRow(label, { before, after, drop, increased }) {
  const lost = drop === null ? "undefined" : increased ? "0 % (rose)" : `${drop.toFixed(1)} %`;
  return make("tr", {}, make("th", { scope: "row" }, label), ...[short(before), short(after), lost].map((text) => make("td", {}, text)));
}

function short(value) {
  if (value === null) return "not finite";
  return value > 0 && value < 0.0005 ? "<0.001" : value.toFixed(3).replace("-", "−");
}

// Photographs.
function addPhoto({ key, name, thumbnail }) {
  const button = make("button", { type: "button", "data-photo": key }, make("img", { src: thumbnail, alt: name, title: name }));
  button.addEventListener("click", () => choose({ photo: key, target: null }));
  $("photos").append(button);
}

async function upload(file) {
  try {
    if (file.size > start.most_bytes) throw new Error(`${file.name} has more than ${start.most_bytes / 1e6} MB: make it smaller`);
    const photo = await (await send(`upload?name=${encodeURIComponent(file.name)}`, file)).json();
    addPhoto(photo);
    $("photos").lastChild.scrollIntoView({ block: "nearest" });
    await choose({ photo: photo.key, target: null });
  } catch (mistake) {
    complain(mistake.message);
  }
}

async function download() {
  try {
    const picture = await (await send("figure", JSON.stringify(questionAsked(wanted.methods, false)))).blob();
    const link = make("a", { href: URL.createObjectURL(picture), download: `evalkit-${wanted.model}-${view.target.name}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (mistake) {
    complain(mistake.message);
  }
}

function chooseClass(event) {
  event.preventDefault();
  const said = $("class").value.trim(), index = network?.classes.indexOf(said) ?? -1;
  $("class").value = "";
  if (said) choose({ target: index < 0 ? said : index });
}

// The address.
function writeAddress() {
  const entries = Object.entries(wanted).filter(([, value]) => value !== null && value !== false);
  history.replaceState(null, "", `#${new URLSearchParams(entries)}`);
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1)), named = said.get("methods")?.split(","), top = parseFloat(said.get("top"));
  for (const name of ["photo", "model", "layer", "target"]) if (said.has(name)) wanted[name] = said.get(name);
  for (const name of ["select", "fill"]) if ([...$(name).options].some((option) => option.value === said.get(name))) wanted[name] = said.get(name);
  if (named) wanted.methods = inOrder((name) => named.includes(name));
  if (top >= 0 && top <= 100) wanted.top = top;
  if (said.has("model")) wanted.random = said.get("random") === "true";
}

// The controls.
const options = { model: { random: false, layer: null, target: null }, layer: {}, select: {}, fill: {} };  // with what each makes void
for (const [name, void_] of Object.entries(options)) $(name).addEventListener("change", () => choose({ ...void_, [name]: $(name).value }));
$("random").addEventListener("click", () => choose({ random: true, layer: null, target: null }));
$("top-percent").addEventListener("input", () => choose({ top: Number($("top-percent").value) }));
$("methods").addEventListener("change", ({ target: { value, checked } }) => {
  if (!checked) drawn.delete(value);
  choose({ methods: inOrder((name) => (name === value ? checked : wanted.methods.includes(name))) });
  showPanels();
});
$("search").addEventListener("submit", chooseClass);
$("class").addEventListener("change", chooseClass);
$("file").addEventListener("change", () => {
  for (const file of $("file").files) upload(file);
  $("file").value = "";
});
$("download").addEventListener("click", download);
addEventListener("hashchange", () => { readAddress(); choose({}); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  for (const file of event.dataTransfer.files) upload(file);
});

start.photos.forEach(addPhoto);
if (start.others > 0) $("others").textContent = `${start.photos.length} of ${(start.photos.length + start.others).toLocaleString("en")}`;
$("model").append(...start.models.map((name) => make("option", { value: name }, name)));
$("colours").src = start.colours;
for (const family of new Set(start.methods.map((method) => method.family))) {
  const boxes = start.methods.filter((method) => method.family === family).map(({ name, about }) =>
    make("label", { title: about }, make("input", { type: "checkbox", value: name }), ` ${name}`));
  $("methods").append(make("fieldset", {}, make("legend", {}, family), make("div", { class: "ticks" }, ...boxes)));
}
$("methods-fold").open = matchMedia("(min-width: 60rem)").matches;
readAddress();
changed();
