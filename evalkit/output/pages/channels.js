"use strict";
// All channels of the layer, part of the app's page. `sheet` are the answers on the view `sheetKey`; `enlarged` names what is enlarged.
let sheet = null, sheetKey = "", enlarged = "";

const valuesOf = { drop: () => sheet.drops, weight: () => sheet.weights, mean: () => sheet.means };
const order = () => choices.by ?? "number";
const signed = (value) => (value === null ? "not finite" : value.toPrecision(3).replace("-", "\u2212"));

function clearChannels() {
  sheet = null;
  sheetKey = enlarged = "";
  $("channels").replaceChildren();
  $("channel").hidden = true;
  $("channels-about").textContent = "";
}

async function openChannels() {
  const key = viewKey;
  $("channels-fold").setAttribute("aria-busy", "true");
  try {
    if (sheetKey !== key) {
      showStatus("computing the channels …");
      const answer = await ask("channels", viewAsked());
      if (key !== viewKey) return;
      sheet = answer;
      sheetKey = key;
      enlarged = "";
      drawChannels();
    }
    if (choices.channel === null) $("channel").hidden = true;
    else if (enlarged !== `${key} ${choices.channel}`) await enlarge(choices.channel, key);
  } finally {
    $("channels-fold").setAttribute("aria-busy", "false");
  }
}

async function enlarge(number, key) {
  let answer;
  try {
    answer = await ask("channel", { view: viewAsked(), number });
  } catch (error) {
    if (choices.channel === number) choices.channel = null;  // no such channel: not asked for again
    writeAddress();
    $("channel").hidden = true;
    throw error;
  }
  if (key !== viewKey || number !== choices.channel) return;
  enlarged = `${key} ${number}`;
  const row = (label, value) => make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, value));
  $("channel").replaceChildren(
    make("img", { src: answer.picture, alt: `channel ${number} over the photograph`, class: view.width < 150 ? "small" : "" }),
    make("div", {}, make("h3", {}, `Channel ${number}`), make("table", {}, make("tbody", {},
      row(`drop of the score of “${view.target.name}” without it`, signed(sheet.drops[number])),
      row("gradient weight (Grad-CAM)", sheet.weights === null ? "the network stops gradients" : signed(sheet.weights[number])),
      row("mean activation", signed(sheet.means[number]))))));
  $("channel").hidden = false;
}

function drawChannels() {
  const [height, width] = sheet.size, scale = Math.max(1, Math.ceil(44 / Math.max(height, width))), count = sheet.drops.length;
  const grid = $("channels"), across = width * scale, down = height * scale;
  grid.style.setProperty("--sprite", `url("${sheet.sprite}")`);
  grid.style.setProperty("--sheet", `${sheet.columns * across}px ${Math.ceil(count / sheet.columns) * down}px`);
  grid.style.setProperty("--across", `${across}px`);
  grid.style.setProperty("--down", `${down}px`);
  grid.replaceChildren(...sheet.drops.map((_, number) => {
    const tile = make("span", { class: "tile" });
    tile.style.backgroundPosition = `${-(number % sheet.columns) * across}px ${-Math.floor(number / sheet.columns) * down}px`;
    return make("button", { type: "button", "data-channel": number, tabindex: -1, title: about(number) }, tile, String(number));
  }));
  $("channels-about").textContent = `${count} channels of ${sheet.positions.join(" x ")} positions.`;
  $("by").querySelector("[value=weight]").disabled = sheet.weights === null;
  sortChannels();
  showChannelChoices();
}

function about(number) {
  const weight = sheet.weights === null ? "" : `, gradient weight ${signed(sheet.weights[number])}`;
  return `channel ${number}: drop ${signed(sheet.drops[number])}${weight}, mean ${signed(sheet.means[number])}`;
}

function sortChannels() {
  const tiles = [...$("channels").children], values = valuesOf[order()]?.();
  const least = (number) => values[number] ?? -Infinity;
  const number = (tile) => Number(tile.dataset.channel);
  tiles.sort((a, b) => (values ? Math.sign(least(number(b)) - least(number(a))) || 0 : 0) || number(a) - number(b));
  $("channels").replaceChildren(...tiles);
}

// The fold, the order, and the pressed channel, which alone is reached by Tab; without one, the first.
function showChannelChoices() {
  $("channels-fold").open = choices.channels;
  $("by").value = order();
  const tiles = [...$("channels").children], chosen = String(choices.channel);
  for (const tile of tiles) {
    tile.setAttribute("aria-pressed", tile.dataset.channel === chosen);
    tile.tabIndex = -1;
  }
  const reached = tiles.find((tile) => tile.dataset.channel === chosen) ?? tiles[0];
  if (reached) reached.tabIndex = 0;
}

function moveAmongChannels(event) {
  const tiles = [...$("channels").children], from = tiles.indexOf(document.activeElement);
  if (from < 0) return;
  const perRow = Math.max(1, tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length);
  const to = { ArrowRight: from + 1, ArrowLeft: from - 1, ArrowDown: from + perRow, ArrowUp: from - perRow, Home: 0, End: tiles.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = tiles[to];
  if (!next) return;
  tiles[from].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function listenToChannels() {
  $("channels-fold").addEventListener("toggle", () => {
    if ($("channels-fold").open !== choices.channels) choose({ channels: $("channels-fold").open });
  });
  $("by").addEventListener("change", () => {
    choices.by = $("by").value;
    writeAddress();
    if (sheet !== null) sortChannels();
    showChannelChoices();
  });
  $("channels").addEventListener("click", (event) => {
    const tile = event.target.closest("[data-channel]");
    if (tile) choose({ channel: Number(tile.dataset.channel) });
  });
  $("channels").addEventListener("keydown", moveAmongChannels);
}
