/* The scan on its canvas: NiiVue with a base volume, what was kept, and the organ's rim. */
"use strict";

const WINDOWS = {
  soft: ["Soft tissue", -160, 240], lung: ["Lung", -1350, 150], bone: ["Bone", -500, 1300],
  full: ["Full", -1000, 1000],
};
const VIEWS = { all: "All", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3D" };
const SLICE_TYPES = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 };
const KEPT_COLOUR = [150, 110, 240];
const ORGAN_COLOUR = [0, 206, 170];
const waiting = new Map();

/* Called by the data files: base64 of a gzipped NIfTI file. */
function photonData(name, text) {
  waiting.get(name)?.(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

/* The bytes of a data file, by adding it as a script: a page on disk may not fetch. */
function loadData(name) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    const end = () => { waiting.delete(name); element.remove(); };
    waiting.set(name, (bytes) => { end(); resolve(bytes); });
    element.onerror = () => { end(); reject(new Error(`${name}.js could not be read`)); };
    element.src = `${name}.js`;
    document.head.append(element);
  });
}

class Scan {
  constructor(canvas, onPlace) {
    this.nv = new niivue.Niivue({
      backColor: [0.03, 0.035, 0.045, 1], crosshairColor: [0.8, 0.84, 0.95, 0.5],
      crosshairWidth: 0.6, crosshairGap: 12,
      isRadiologicalConvention: true, multiplanarShowRender: 1, multiplanarLayout: 0,
      tileMargin: 4, fontSizeScaling: 0.34, fontMinPx: 11, fontColor: [0.75, 0.78, 0.86, 0.9],
      dragAndDropEnabled: false, show3Dcrosshair: false, isOrientCube: false, isColorbar: false,
      clipPlaneHotKey: "", viewModeHotKey: "", loadingText: "", logLevel: "error",
      isForceMouseClickToVoxelCenters: true, scrollRequiresFocus: false,
    });
    this.nv.onLocationChange = (told) => onPlace(told);
    // After the list is painted: compiling shaders holds the page up.
    const painted = new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
    this.ready = painted.then(() => this.nv.attachToCanvas(canvas)).then(() => {
      this.nv.addColormap("photonScore", ramp(SCORE_COLOURS));
      this.nv.addColormap("photonKept", ramp([KEPT_COLOUR, KEPT_COLOUR]));
      this.nv.addColormap("photonDropped", ramp([[8, 9, 12], [8, 9, 12]]));
      this.nv.addColormap("photonOrgan", ramp([ORGAN_COLOUR, ORGAN_COLOUR]));
    });
    this.kept = []; // the newest volumes, decoded
    this.window = "soft";
    this.view = "all";
    this.overlay = "kept";
    this.opacity = 0.5;
    this.organ = true;
    this.task = Promise.resolve();
  }

  /* Show a case; calls that are overtaken by a newer one do nothing. `about`: where the cross goes
   * to the organ, or to what was kept, when it changes. */
  show(place, volume, bits, scores, evidence, about) {
    const mine = this.latest = {};
    this.task = this.task.catch(() => {}).then(async () => {
      await this.ready;
      if (mine === this.latest) await this.draw(place, volume, bits, scores, evidence, about);
    });
    return this.task;
  }

  async draw(place, volume, bits, scores, evidence, about) {
    const held = await this.read(place, volume);
    const seen = JSON.stringify([place, about]);
    const nv = this.nv, base = held.base, dims = base.hdr.dims.slice(1, 4);
    this.base = base;
    this.grid = volume.grid;
    const rows = affineOfGrid(base.hdr.affine, dims, volume.grid);
    const show = this.overlay !== "none" && bits != null;
    const bytes = show ? overlayBytes(bits, scores, this.overlay === "dropped")
      : new Uint8Array(product(volume.grid));
    const colours = this.overlay === "dropped" ? "photonDropped" : scores ? "photonScore" : "photonKept";
    const tokens = await image(niftiOfBytes(bytes, volume.grid, rows), "kept", colours, 255);
    const layers = [base, tokens];
    let rim = null;
    if (volume.labels && evidence.length) {
      rim = await this.rim(held, place, dims, evidence);
      layers.push(rim);
    }
    // All at once: addVolume and removeVolume would each upload and draw everything anew.
    nv.volumes = layers;
    nv.back = base;
    nv.overlays = layers.slice(1);
    this.tokens = tokens;
    this.rimLayer = rim;
    nv.opts.sliceType = SLICE_TYPES[this.view];
    this.restyle(volume.window);
    if (seen !== this.seen) {
      const at = rim ? centreOf(rim.img, dims)
        : bits ? centreOf(bits, [volume.grid[2], volume.grid[1], volume.grid[0]]) : [0.5, 0.5, 0.5];
      nv.scene.crosshairPos = this.fractionOf(at.map((f, axis) => f * dims[axis] - 0.5));
      nv.drawScene();
      this.seen = seen;
    }
    nv.createOnLocationChange();
  }

  async read(place, volume) {
    const found = this.kept.find((one) => one.place === place);
    if (found) return found;
    const bytes = await loadData(`volumes/${place}`);
    const base = await niivue.NVImage.new(bytes, `${volume.name}.nii.gz`, "gray", 1);
    const held = { place, base, labels: null, rims: new Map() };
    this.kept = [held, ...this.kept].slice(0, 4);
    return held;
  }

  async rim(held, place, dims, evidence) {
    const key = evidence.join();
    if (!held.rims.has(key)) {
      held.labels ??= await niivue.NVImage.new(await loadData(`labels/${place}`), "labels.nii.gz");
      const bytes = rimOf(held.labels.img, dims, evidence);
      const grid = [dims[2], dims[1], dims[0]];
      const file = niftiOfBytes(bytes, grid, held.base.hdr.affine);
      held.rims.set(key, await image(file, "organ", "photonOrgan", 1));
    }
    return held.rims.get(key);
  }

  restyle(own) {
    if (!this.base) return;
    if (own !== undefined) this.own = own;
    const [, low, high] = this.own ? ["", ...this.own] : WINDOWS[this.window];
    this.base.cal_min = low;
    this.base.cal_max = high;
    this.tokens.opacity = this.overlay === "dropped" ? Math.min(1, this.opacity * 1.4) : this.opacity;
    if (this.rimLayer) this.rimLayer.opacity = this.organ ? 1 : 0;
    // In 3D the body is glass, so that what lies inside shows.
    this.base.opacity = this.view === "render" ? 0.35 : 1;
    this.nv.updateGLVolume();
  }

  setView(name) {
    this.view = name;
    this.nv.opts.sliceType = SLICE_TYPES[name];
    this.restyle();
  }

  /* NiiVue's position, a fraction along R-L, A-P and I-S, of a voxel (w, h, d) of the file. */
  fractionOf(voxel) {
    const rows = this.base.hdr.affine.slice(0, 3);
    return this.nv.mm2frac(rows.map((row) => row[3] + voxel.reduce((s, n, i) => s + n * row[i], 0)));
  }
}

async function image(file, name, colours, high) {
  const made = await niivue.NVImage.new(file, `${name}.nii`, colours, 1);
  made.cal_min = 0;
  made.cal_max = high;
  return made;
}

/* A NiiVue colormap that is see-through at 0 only. */
function ramp(colours) {
  const n = colours.length, I = [0, ...colours.map((_, i) => Math.round(1 + i * 254 / (n - 1)))];
  const [R, G, B] = [0, 1, 2].map((c) => [colours[0][c], ...colours.map((one) => one[c])]);
  return { R, G, B, A: [0, ...colours.map(() => 255)], I };
}
