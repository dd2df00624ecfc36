"use strict";
const start = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// The choices of the user, mirrored in the address; null means the choice of the network.
const choices = { photo: start.photos[0].key, model: start.models[0], random: false, layer: null, target: start.target, channels: false, channel: null, by: null,
  methods: start.methods.filter((method) => method.chosen).map((method) => method.name), ...start.point };
// What is shown: the network, its view of the photograph, and the methods whose maps of that view are drawn.
let network = null, networkKey = "", view = null, viewKey = "";
const drawn = new Set(), panels = new Map();

const networkAsked = () => ({ model: choices.model, random: choices.random });
const viewAsked = () => ({ ...networkAsked(), photo: choices.photo, layer: choices.layer, target: choices.target });
const viewShown = () => ({ photo: view.photo, layer: view.layer, target: view.target.index });
const pointAsked = () => ({ select: choices.select, top_percent: choices.select === "soft" ? null : choices.top, fill: choices.fill });
const questionAsked = (methods, heat) => ({ view: viewAsked(), methods, point: pointAsked(), heat });
const inOrder = (isChosen) => start.methods.map((method) => method.name).filter(isChosen);

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
    throw new Error("the server does not answer: is evalkit app still running?");
  }
  if (answer.ok) return answer;
  const reason = answer.headers.get("content-type")?.startsWith("application/json") ? (await answer.json()).error : null;
  throw new Error(reason ?? "the server failed; its terminal shows the reason");
}
const ask = async (path, question) => (await send(path, JSON.stringify(question))).json();
const showStatus = (text) => { $("status").textContent = text; };
const showProblem = (text) => { $("problem").textContent = text; };

// One request at a time: choices that change meanwhile are sent when its answer has arrived, only the latest.
let dirty = false, busy = false;
function setBusy(value) {
  busy = value;
  $("answers").setAttribute("aria-busy", value);
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
    } catch (error) {
      if (!dirty) showProblem(error.message);
    }
  }
  setBusy(false);
  showStatus("");
}

function choose(change) {
  showProblem("");
  Object.assign(choices, change);
  return changed();
}

async function answer() {
  if (networkKey !== JSON.stringify(networkAsked())) await openNetwork();
  if (!dirty && viewKey !== JSON.stringify(viewAsked())) await openView();
  const old = choices.methods.filter((name) => drawn.has(name));
  const fresh = choices.methods.filter((name) => !drawn.has(name));
  for (const methods of [old, ...fresh.map((name) => [name])]) {
    if (dirty) return;
    if (methods.length) await explain(methods);
  }
  if (!dirty && choices.channels) await openChannels();
}

async function openNetwork() {
  const request = networkAsked();
  showStatus(`opening ${request.model} …`);
  clearView();
  network = null;
  networkKey = "";
  $("random").hidden = true;
  try {
    network = await ask("network", request);
    networkKey = JSON.stringify(request);
  } catch (error) {
    $("random").hidden = dirty || request.random;
    throw error;
  } finally {
    showNetwork();
    showChoices();
  }
}

async function openView() {
  const request = viewAsked();
  showStatus("running the network …");
  for (const panel of panels.values()) panel.setAttribute("aria-busy", "true");
  try {
    view = { ...await ask("view", request), photo: request.photo };
  } catch (error) {
    const last = view === null ? { photo: start.photos[0].key, layer: null, target: null } : viewShown();
    if (dirty || JSON.stringify({ ...request, ...last }) === JSON.stringify(request)) throw error;
    Object.assign(choices, last);  // no such photograph, layer or class: return to the last view
    dirty = true;
    writeAddress();
    showChoices();
    showProblem(error.message);
    return;
  }
  viewKey = "";
  drawn.clear();
  if (dirty) return;
  Object.assign(choices, viewShown());
  viewKey = JSON.stringify(viewAsked());
  if (!document.querySelector(`[data-photo="${CSS.escape(view.photo)}"]`)) addPhoto({ key: view.photo, name: view.name, thumbnail: view.picture });
  writeAddress();
  showView();
  showChoices();
}

async function explain(methods) {
  const key = viewKey, fresh = !drawn.has(methods[0]);
  if (fresh) showStatus(`computing ${methods[0]} …`);
  const answers = await ask("explain", questionAsked(methods, fresh));
  if (key !== viewKey) return;
  for (const name of methods.filter((method) => choices.methods.includes(method))) {
    drawPanel(name, answers.methods[name], answers.pixels);
    drawn.add(name);
  }
  showPanels();
}

function clearView() {
  view = null;
  viewKey = "";
  drawn.clear();
  panels.clear();
  clearChannels();
  showPanels();
  showView();
}

// Display of the choices.
function showNetwork() {
  const layers = network?.layers ?? [], names = network?.classes ?? [];
  $("layer").replaceChildren(...layers.map(({ name, channels, height, width }) =>
    make("option", { value: name }, `${name}${name === network.layer ? " (proposed)" : ""}: ${channels} maps of ${height} x ${width}`)));
  $("classes").replaceChildren(...names.map((name, index) => names.indexOf(name) === names.lastIndexOf(name)
    ? make("option", { value: name }) : make("option", { value: index, label: `${name} (${index})` })));
  const top1 = network === null || network.random || network.top1 === null ? "" : `; top-1 ${network.top1.toFixed(1)} %`;
  $("about").textContent = network === null ? "" : `${names.length} ${network.raw ? "outputs" : "classes"}; weights: ${network.weights}${top1}`;
  $("weights").textContent = network?.random ? "RANDOM WEIGHTS: this network has learnt nothing, and its maps explain nothing." : "";
}

function showChoices() {
  for (const button of $("photos").children) button.setAttribute("aria-pressed", button.dataset.photo === choices.photo);
  for (const button of $("top").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.target === String(choices.target));
  for (const box of $("methods").querySelectorAll("input")) box.checked = choices.methods.includes(box.value);
  for (const name of ["model", "select", "fill"]) $(name).value = choices[name];
  if (network !== null) $("layer").value = choices.layer ?? network.layer;
  $("top-percent").value = choices.top;
  $("top-percent").disabled = choices.select === "soft";
  $("fill").querySelector("[value=road]").disabled = choices.select === "soft";  // it is imputed from what a binary mask keeps
  $("select").querySelector("[value=soft]").disabled = choices.fill === "road";
  showChannelChoices();
  $("percent").textContent = choices.select === "soft" ? "–" : `${choices.top} %`;
}

function showView() {
  $("picture").hidden = view === null;
  $("download").disabled = view === null;
  $("question").textContent = view === null ? "Why?" : `Why “${view.target.name}”? ${view.raw ? "Score" : "Confidence"} ${main(view.target)}`;
  const classes = view === null ? [] : view.top.some((one) => one.index === view.target.index) ? view.top : [...view.top, view.target];
  $("top").replaceChildren(...classes.map((one) => {
    const button = make("button", { type: "button", "data-target": one.index }, make("span", {}, one.name),
      make("span", {}, main(one)), ...(view.raw ? [] : [make("meter", { value: one.confidence ?? 0, "aria-hidden": "true" })]));
    button.addEventListener("click", () => choose({ target: one.index }));
    return make("li", {}, button);
  }));
  if (view === null) return;
  $("top").setAttribute("aria-label", `The ${view.raw ? "highest outputs" : "likeliest classes"}: press one to explain it`);
  $("other").textContent = `Any other ${view.raw ? "output" : "class"}, by name or number`;
  $("picture").src = view.picture;
  $("picture").alt = `${view.name}, as the network sees it`;
  $("picture").classList.toggle("small", view.width < 150);
}

// Display of the answers.
function showPanels() {
  for (const name of [...panels.keys()]) if (!choices.methods.includes(name)) panels.delete(name);
  const shown = choices.methods.map((name) => panels.get(name)).filter(Boolean);
  if (shown.some((panel, i) => panel !== $("panels").children[i]) || shown.length !== $("panels").children.length) $("panels").replaceChildren(...shown);
}

function drawPanel(name, answer, pixels) {
  const panel = panels.get(name) ?? make("article", { class: "explained", "data-method": name });
  panels.set(name, panel);
  panel.removeAttribute("aria-busy");
  const map = answer.heat ?? panel.querySelector("img")?.src, title = make("h3", {}, name);
  if (answer.error !== undefined) {
    panel.replaceChildren(title, make("p", { class: "warn" }, `${name} is not possible here: ${answer.error}`));
    return;
  }
  const kept = answer.kept === null ? "as bright as the map" : `${answer.kept.toLocaleString("en")} of ${pixels.toLocaleString("en")} pixels`;
  const picture = (src, alt, caption) =>
    make("figure", {}, make("img", { src, alt, class: view.width < 150 ? "small" : "" }), make("figcaption", {}, caption));
  panel.replaceChildren(title, make("div", { class: "pictures" }, picture(map, `map of ${name} over the photograph`, "the map"),
    picture(answer.picture, `what ${name} leaves of the photograph`, kept)),
  make("table", {}, make("thead", {}, make("tr", {}, ...["", "before", "after", "drop"].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...(answer.confidence === null ? [scoreRow("score", answer.logit)]
      : [scoreRow("confidence", answer.confidence), scoreRow("score (logit)", answer.logit)]))));
  if (answer.constant) panel.append(make("p", { class: "warn" }, "This map is constant: its top pixels are chosen by their position in the image alone."));
}

function scoreRow(label, { before, after, drop, increased }) {
  const lost = drop === null ? "undefined" : increased ? "0 % (rose)" : `${drop.toFixed(1)} %`;
  return make("tr", {}, make("th", { scope: "row" }, label), ...[short(before), short(after), lost].map((text) => make("td", {}, text)));
}

function main(one) {
  return short(view.raw ? one.logit : one.confidence);
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
  } catch (error) {
    showProblem(error.message);
  }
}

async function download() {
  try {
    const picture = await (await send("figure", JSON.stringify(questionAsked(choices.methods, false)))).blob();
    const link = make("a", { href: URL.createObjectURL(picture), download: `evalkit-${choices.model}-${view.target.name}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    showProblem(error.message);
  }
}

function chooseClass(event) {
  event.preventDefault();
  const text = $("class").value.trim(), index = network?.classes.indexOf(text) ?? -1;
  $("class").value = "";
  if (text) choose({ target: index < 0 ? text : index });
}

// The address.
function writeAddress() {
  const entries = Object.entries(choices).filter(([, value]) => value !== null && value !== false);
  history.replaceState(null, "", `#${new URLSearchParams(entries)}`);
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1)), named = address.get("methods")?.split(","), top = parseFloat(address.get("top"));
  for (const name of ["photo", "model", "layer", "target"]) if (address.has(name)) choices[name] = address.get(name);
  for (const name of ["select", "fill"]) if ([...$(name).options].some((option) => option.value === address.get(name))) choices[name] = address.get(name);
  if (named) choices.methods = inOrder((name) => named.includes(name));
  if (top >= 0 && top <= 100) choices.top = top;
  choices.channels = address.get("channels") === "true";
  choices.channel = /^\d+$/.test(address.get("channel") ?? "") ? Number(address.get("channel")) : null;
  choices.by = [...$("by").options].some((option) => option.value === address.get("by")) ? address.get("by") : null;
  if (address.has("model")) choices.random = address.get("random") === "true";
}

// The controls.
const options = { model: { random: false, layer: null, target: null, channel: null }, layer: { channel: null }, select: {}, fill: {} };  // with the choices that each resets
for (const [name, reset] of Object.entries(options)) $(name).addEventListener("change", () => choose({ ...reset, [name]: $(name).value }));
$("random").addEventListener("click", () => choose({ random: true, layer: null, target: null, channel: null }));
$("top-percent").addEventListener("input", () => choose({ top: Number($("top-percent").value) }));
$("methods").addEventListener("change", ({ target: { value, checked } }) => {
  if (!checked) drawn.delete(value);
  choose({ methods: inOrder((name) => (name === value ? checked : choices.methods.includes(name))) });
  showPanels();
});
$("search").addEventListener("submit", chooseClass);
$("class").addEventListener("change", chooseClass);
$("file").addEventListener("change", () => {
  for (const file of $("file").files) upload(file);
  $("file").value = "";
});
$("download").addEventListener("click", download);
listenToChannels();
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
