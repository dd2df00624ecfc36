"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const items = new Map(data.items.map((item) => [item.id, item]));
const storageKey = "evalkit-study-" + data.study; // pages opened from a disk may share one storage
const at = (id) => document.getElementById(id);
const show = (id) => ["start", "item", "end"].forEach((section) => { at(section).hidden = section !== id; });

const DOUBLE_CLICK = 250; // milliseconds

let canStore = true; // some browsers store nothing for a page opened from a disk
let unsaved = false;
const state = restored();

// {rater: name of the current rater or null, sheets: {rater: {order, shown, answers, position}}}
function restored() {
  try {
    const stored = JSON.parse(localStorage.getItem(storageKey));
    const fits = (sheet) => sheet.order.length === items.size && sheet.order.every((id) => items.has(id) && sheet.shown[id]);
    if (stored && Object.values(stored.sheets).every(fits)) return stored;
  } catch {
    // storage is refused (`keep` shows it), or holds what this page did not write
  }
  return { rater: null, sheets: {} };
}

function keep() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(state));
    canStore = true;
  } catch {
    canStore = false;
  }
  at("forgetful").hidden = canStore;
}

function shuffled(list) {
  const mixed = [...list];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

const sheet = () => state.sheets[state.rater];
const answered = () => sheet().order.filter((id) => id in sheet().answers).length;
const answer = (choice, shown) => ("option" in choice ? shown[choice.option] : choice.value);

function begin(rater) {
  state.rater = rater;
  if (!Object.hasOwn(state.sheets, rater)) {
    const order = shuffled(items.keys());
    const shown = Object.fromEntries(order.map((id) => [id, shuffled(items.get(id).options.map((option) => option.id))]));
    state.sheets[rater] = { order, shown, answers: {}, position: 0 };
  }
  go(sheet().position);
}

function leave() {
  state.rater = null;
  keep();
  at("rater").value = "";
  show("start");
  at("rater").focus();
}

function go(position) {
  const size = sheet().order.length;
  sheet().position = Math.max(0, Math.min(position, size));
  keep();
  if (sheet().position === size) end();
  else ask(items.get(sheet().order[sheet().position]));
}

function ask(item) {
  const shown = sheet().shown[item.id];
  const options = shown.map((id) => item.options.find((option) => option.id === id));
  at("progress").textContent = `${sheet().position + 1} of ${sheet().order.length}`;
  at("bar").max = sheet().order.length;
  at("bar").value = answered();
  at("question").textContent = item.question;
  const maps = item.picture ? [item.picture] : options.map((option) => option.picture);
  at("pictures").replaceChildren(
    figure(item.photograph, "photograph"),
    ...maps.map((map, i) => figure(map, data.captions[i])),
  );
  at("choices").replaceChildren(...data.choices.map((choice, i) => button(choice, i, item.id, shown, options)));
  at("back").disabled = sheet().position === 0;
  at("change").textContent = `Not ${state.rater}?`;
  show("item");
  at("question").focus();
}

function figure(source, caption) {
  const element = document.createElement("figure");
  const picture = element.appendChild(document.createElement("img"));
  picture.src = source;
  picture.alt = caption;
  element.appendChild(document.createElement("figcaption")).textContent = caption;
  return element;
}

function button(choice, i, id, shown, options) {
  const element = document.createElement("button");
  element.appendChild(document.createElement("kbd")).textContent = i + 1;
  element.append(choice.text ?? options[choice.option].name);
  element.setAttribute("aria-pressed", sheet().answers[id] === answer(choice, shown));
  const created = performance.now();
  element.addEventListener("click", (event) => {
    const twice = event.detail > 0 && performance.now() - created < DOUBLE_CLICK; // it was meant for the previous item
    if (!twice) choose(choice);
  });
  return element;
}

function choose(choice) {
  const id = sheet().order[sheet().position];
  sheet().answers[id] = answer(choice, sheet().shown[id]);
  unsaved = true;
  go(sheet().position + 1);
}

function end() {
  const size = sheet().order.length;
  const open = size - answered();
  at("done").textContent = open ? `${answered()} of ${size} answered` : `All ${size} answered. Thank you!`;
  at("missing").textContent = open ? "You can go back to those without an answer, or save as it is." : "";
  at("unanswered").hidden = !open;
  at("save").disabled = open === size;
  at("saved").textContent = "";
  show("end");
  at("done").focus();
}

function save() {
  const { order, shown, answers } = sheet();
  const content = { study: data.study, design: data.design, rater: state.rater, saved: new Date().toISOString(), order, shown, answers };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = `answers-${state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`;
  link.click();
  unsaved = false;
  at("saved").textContent = `Saved as ${link.download}, where this browser puts its downloads. Please send that file to whoever gave you this page.`;
}

at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(at("rater").value.trim().replace(/\s+/g, " "));
});
at("back").addEventListener("click", () => go(sheet().position - 1));
at("on").addEventListener("click", () => go(sheet().position + 1));
at("stop").addEventListener("click", () => go(sheet().order.length));
at("again").addEventListener("click", () => go(sheet().order.length - 1));
at("unanswered").addEventListener("click", () => go(sheet().order.findIndex((id) => !(id in sheet().answers))));
at("save").addEventListener("click", save);
at("change").addEventListener("click", leave);
at("next").addEventListener("click", leave);

document.addEventListener("keydown", (event) => {
  if (at("item").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const choice = data.choices[Number(event.key) - 1];
  if (choice) choose(choice);
  else if (event.key === "ArrowLeft") go(sheet().position - 1);
  else if (event.key === "ArrowRight") go(sheet().position + 1);
});
addEventListener("beforeunload", (event) => {
  if (unsaved && !canStore) event.preventDefault();
});

if (state.rater !== null && sheet()) begin(state.rater);
else leave();
