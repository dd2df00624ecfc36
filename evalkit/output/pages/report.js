"use strict";
// The gallery: pages of cards, filtered by reason, winner, class and method. Text is always inserted as text, never as HTML.

const PAGE = 12;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function picture(source, alt) {
  return source
    ? element("img", { src: source, alt, loading: "lazy", className: "shot" })
    : element("span", { className: "shot none", textContent: "no picture" });
}

function number(value, digits) {
  return value === null ? "–" : value.toFixed(digits);
}

function panel(item, method, gallery) {
  const winner = method.name === item.winner;
  const title = element("div", { className: "method" }, method.name);
  if (winner) title.append(element("span", { className: "badge", textContent: "wins" }));
  if (method.constant) title.append(element("span", { className: "badge dull", textContent: "constant map" }));
  return element(
    "div",
    { className: "panel" },
    title,
    ...("map" in method
      ? [element("div", { className: "pair" }, picture(method.map, `map of ${method.name}`), picture(method.seen, `what is left by ${method.name}`))]
      : gallery.shown.includes(method.name) ? [] : [element("div", { className: "scores faint", textContent: gallery.without })]),
    element("div", {
      className: "scores",
      textContent: item.confidence === null
        ? `score ${number(item.logit, 3)} → ${number(method.logit, 3)} (drop ${number(method.drop, 1)} %)`
        : `confidence ${number(item.confidence, 3)} → ${number(method.confidence, 3)} (drop ${number(method.drop, 1)} %)`,
    }),
    ...(item.confidence === null ? [] : [
      element("div", { className: "scores faint", textContent: `logit ${number(item.logit, 2)} → ${number(method.logit, 2)}` }),
    ]),
  );
}

function card(item, methods, gallery) {
  const wrong = item.label !== null && item.label !== item.predicted;
  const facts = element("div", { className: "facts" });
  facts.append(element("strong", { textContent: `why “${item.explained}”?` }));
  facts.append(element("div", { textContent: item.label === null ? "no label" : `label: ${item.label}` }));
  if (item.predicted !== item.explained || wrong) {
    facts.append(element("div", { className: wrong ? "warn" : "", textContent: `predicted: ${item.predicted}` }));
  }
  facts.append(element("div", { className: "faint name", textContent: item.image }));
  facts.append(element("div", { className: "faint", textContent: item.reasons.join(", ") }));
  const chosen = item.methods.filter((method) => methods.has(method.name));
  return element(
    "article",
    { className: "card" },
    element("div", { className: "photograph" }, picture(item.photograph, `photograph: ${item.label ?? item.image}`), facts),
    element("div", { className: "panels" }, ...chosen.map((method) => panel(item, method, gallery))),
  );
}

function menu(label, options) {
  const select = element("select", {}, ...options.map((text) => element("option", { value: text, textContent: text })));
  return [element("label", { textContent: `${label} ` }, select), select];
}

function draw(root, gallery) {
  const all = "all";
  const reasons = [...new Set(gallery.items.flatMap((item) => item.reasons))];
  const winners = [...new Set(gallery.items.map((item) => item.winner))].sort();
  const classes = [...new Set(gallery.items.map((item) => item.label ?? item.explained))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const [reasonLabel, reason] = menu("shown because", [all, ...reasons]);
  const [winnerLabel, winner] = menu("winner", [all, ...winners]);
  const [classLabel, chosenClass] = menu("class", [all, ...classes]);
  const boxes = gallery.methods.map((name) => {
    const box = element("input", { type: "checkbox", checked: gallery.shown.includes(name), value: name });
    return [element("label", { className: "tick" }, box, ` ${name}`), box];
  });
  const count = element("p", { className: "faint count" });
  count.setAttribute("aria-live", "polite");
  const cards = element("div", { className: "cards" });
  const more = element("button", { type: "button", textContent: "show more" });
  const every = element("button", { type: "button", textContent: "show all images", hidden: true });
  let limit = PAGE;

  function refresh() {
    const matches = gallery.items.filter(
      (item) =>
        (reason.value === all || item.reasons.includes(reason.value)) &&
        (winner.value === all || item.winner === winner.value) &&
        (chosenClass.value === all || (item.label ?? item.explained) === chosenClass.value),
    );
    const methods = new Set(boxes.filter(([, box]) => box.checked).map(([, box]) => box.value));
    const shown = matches.slice(0, limit);
    cards.replaceChildren(...shown.map((item) => card(item, methods, gallery)));
    count.textContent = `${matches.length} of ${gallery.items.length} images${shown.length < matches.length ? `, ${shown.length} shown` : ""}`;
    more.hidden = shown.length === matches.length;
    every.hidden = matches.length > 0;
  }

  function restart() {
    limit = PAGE;
    refresh();
  }

  for (const control of [reason, winner, chosenClass, ...boxes.map(([, box]) => box)]) control.addEventListener("change", restart);
  more.addEventListener("click", () => {
    limit += PAGE;
    refresh();
  });
  every.addEventListener("click", () => {
    for (const control of [reason, winner, chosenClass]) control.value = all;
    restart();
  });
  root.append(
    element("div", { className: "controls" }, reasonLabel, winnerLabel, classLabel),
    element("div", { className: "controls" }, ...boxes.map(([label]) => label)),
    count,
    every,
    cards,
    more,
  );
  refresh();
}

const { galleries } = JSON.parse(document.getElementById("data").textContent);
for (const root of document.querySelectorAll(".gallery")) draw(root, galleries[Number(root.dataset.run)]);
