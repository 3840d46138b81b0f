/* Chooses the mode that the data asks for. */
"use strict";

setUpTheme();
document.body.dataset.mode = PHOTON.mode;
byId("title").textContent = PHOTON.title;
document.title = `${PHOTON.title} \u2013 Photon`;
for (const [name, value] of PHOTON.figures || []) {
  byId("figures").append(make("span", { className: "figure" },
    make("b", { textContent: value }), make("span", { textContent: name })));
}
let scan = null, page = null;
try {
  scan = new Scan(byId("canvas"), showPlace);
  scan.ready.catch((error) => problem(`The scan cannot be drawn: ${error.message}`));
} catch (error) {
  problem(`The scan cannot be drawn: ${error.message}. The browser needs WebGL 2.`);
}
if (scan) {
  page = PHOTON.mode === "run" ? new Run(scan) : new Live(scan);
  setUpKeys({ ...page.keys(), ...setUpTools(scan, () => page.redraw()) });
}
