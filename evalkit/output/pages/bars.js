"use strict";
// Numbers and intervals as bars on an axis. Text is always inserted as text, never as HTML.

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const unique = (values) => [...new Set(values)];

function text(value, digits) {
  return value === null ? "undefined" : value.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1").replace("-", "−");
}

function interval(low, high, digits) {
  return low === null ? " [no interval]" : ` [${text(low, digits)}, ${text(high, digits)}]`;
}

function scaleOf(shown) {
  const ends = shown.flatMap((column) => column.rows.flatMap((row) => [row.value, row.low, row.high])).filter((value) => value !== null);
  const [low, high] = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const margin = (high - low || 1) * 0.06;
  const from = low - margin;
  const to = high + margin;
  const rough = (to - from) / 6;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough);
  const ticks = [];
  for (let i = Math.ceil(from / step); i * step <= to; i += 1) ticks.push(i * step);
  const at = (value) => `${(100 * (value - from)) / (to - from)}%`;
  return { at, ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function axis(scale) {
  return drawn("svg", { class: "axis", "aria-hidden": "true" }, ...scale.ticks
    .filter((tick) => parseFloat(scale.at(tick)) > 4 && parseFloat(scale.at(tick)) < 96)  // not over the neighbour's
    .map((tick) => drawn("text", { x: scale.at(tick), y: "85%", "text-anchor": "middle", fill: "currentColor" }, text(tick, scale.digits))));
}

// The interval of the best control, behind the whole cell, so that the cells of a column make one band; its value as a line.
function shaded(cell, column, scale) {
  const { floor } = column;
  if (floor === null) return cell;
  const band = floor.low === null ? "" : `, linear-gradient(90deg, transparent ${scale.at(floor.low)}, var(--shade-floor) 0 ${scale.at(floor.high)}, transparent 0)`;
  cell.style.background = `linear-gradient(90deg, transparent calc(${scale.at(floor.value)} - 1px), #9aa5ad 0 ${scale.at(floor.value)}, transparent 0)${band}`;
  return cell;
}

function bar(row, scale) {
  const colour = row.control ? "var(--faint)" : "var(--accent)";
  const svg = drawn("svg", { class: "bar", "aria-hidden": "true" });
  if (row.low !== null) svg.append(drawn("line", { x1: scale.at(row.low), x2: scale.at(row.high), y1: "50%", y2: "50%", stroke: colour, "stroke-width": 4 }));
  const filled = row.control || row.beats === "yes" || row.beats === null;
  if (row.value !== null) svg.append(drawn("circle", { cx: scale.at(row.value), cy: "50%", r: 5, stroke: colour, "stroke-width": 2, fill: filled ? colour : "var(--paper)" }));
  return svg;
}
