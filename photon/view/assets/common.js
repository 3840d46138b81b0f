/* What both modes share: building elements, the tools above the scan, theme, keys, problems. */
"use strict";

const byId = (id) => document.getElementById(id);

function make(tag, options = {}, ...children) {
  const { data, ...rest } = options;
  const element = Object.assign(document.createElement(tag), rest);
  if (data) Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child != null));
  return element;
}

function percent(share) {
  return share == null ? "\u2013" : `${Math.round(100 * share)} %`;
}

function problem(text) {
  byId("problem").textContent = text || "";
  byId("problem").hidden = !text;
}

function segments(id, options, chosen, onChoice) {
  const box = byId(id);
  for (const [value, label] of Object.entries(options)) {
    const button = make("button", { type: "button", textContent: label, data: { value } });
    button.onclick = () => pick(value);
    box.append(button);
  }
  function pick(value) {
    for (const one of box.children) one.setAttribute("aria-pressed", one.dataset.value === value);
    onChoice(value);
  }
  for (const one of box.children) one.setAttribute("aria-pressed", one.dataset.value === chosen);
  return pick;
}

function cycle(options, current) {
  const names = Object.keys(options);
  return names[(names.indexOf(current) + 1) % names.length];
}

const OVERLAYS = { kept: "Kept", dropped: "Dropped", none: "Off" };

/* The tools above the canvas; `redraw` draws the case anew. */
function setUpTools(scan, redraw) {
  const names = Object.fromEntries(Object.entries(WINDOWS).map(([k, v]) => [k, v[0]]));
  const pickView = segments("views", VIEWS, scan.view, (value) => scan.setView(value));
  const pickWindow = segments("windows", names, scan.window, (value) => {
    scan.window = value;
    scan.restyle();
  });
  const pickOverlay = segments("overlays", OVERLAYS, scan.overlay, (value) => {
    scan.overlay = value;
    byId("scale").hidden = value !== "kept";
    redraw();
  });
  byId("opacity").oninput = (event) => {
    scan.opacity = event.target.value / 100;
    scan.restyle();
  };
  byId("organ-toggle").onchange = (event) => {
    scan.organ = event.target.checked;
    scan.restyle();
  };
  const bar = byId("bar").getContext("2d"), fill = bar.createLinearGradient(0, 0, 96, 0);
  SCORE_COLOURS.forEach((rgb, i) =>
    fill.addColorStop(i / (SCORE_COLOURS.length - 1), `rgb(${rgb.join()})`));
  bar.fillStyle = fill;
  bar.fillRect(0, 0, 96, 8);
  return {
    v: ["next view", () => pickView(cycle(VIEWS, scan.view))],
    w: ["next window", () => pickWindow(cycle(WINDOWS, scan.window))],
    o: ["kept, dropped or no overlay", () => pickOverlay(cycle(OVERLAYS, scan.overlay))],
    m: ["organ on or off", () => byId("organ-toggle").click()],
    t: ["light or dark", toggleTheme],
    "?": ["these keys", () => toggleHelp()],
  };
}

/* Keys outside text fields: {key: [what it does, function]}; NiiVue sees none of them. */
function setUpKeys(keys) {
  window.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input:not([type=range]):not([type=checkbox]), textarea, select");
    if (event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const found = keys[event.key];
    if (!found) return;
    event.preventDefault();
    event.stopPropagation();
    found[1]();
  }, true);
  const shown = { ArrowDown: "\u2193", ArrowUp: "\u2191" };
  byId("help").append(make("h2", { textContent: "Keys" }), make("dl", {}, ...Object.entries(keys)
    .flatMap(([key, [text]]) => [
      make("dt", {}, make("kbd", { textContent: shown[key] || key })),
      make("dd", { textContent: text }),
    ])), make("p", { className: "faint", textContent:
      "On the scan: drag moves the cross, the wheel goes through slices, dragging in 3D turns." }));
  byId("help").onclick = () => byId("help").close();
  byId("help-button").onclick = () => toggleHelp();
}

function toggleHelp() {
  const help = byId("help");
  if (help.open) help.close(); else help.showModal();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  try { localStorage.setItem("photon-theme", name); } catch { /* a page on disk may not store */ }
}

function toggleTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
}

function setUpTheme() {
  let name = null;
  try { name = localStorage.getItem("photon-theme"); } catch { /* as above */ }
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = name || (dark.matches ? "dark" : "light");
  byId("theme").onclick = toggleTheme;
}

function showPlace(told) {
  const value = told?.values?.[0];
  if (!value) return;
  const sides = ["LR", "PA", "IS"];
  const place = sides.map((side, i) => `${side[+(told.mm[i] >= 0)]} ${Math.abs(Math.round(told.mm[i]))}`);
  byId("place").textContent =
    `${place.join("   ")} mm     ${Math.round(value.value)}${scan.own ? "" : " HU"}`;
}
