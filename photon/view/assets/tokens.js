/* Masks and scores of visual tokens, and small images of them for NiiVue. No page in here. */
"use strict";

// Plasma from 0.15 up, so that low scores stay visible on black.
const SCORE_COLOURS = [
  [84, 2, 163], [126, 3, 168], [163, 26, 154], [193, 58, 131], [218, 91, 106],
  [238, 124, 81], [252, 162, 58], [252, 205, 37], [240, 249, 33],
];

function bytesOfHex(hex) {
  const out = new Uint8Array(hex.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = parseInt(hex.substr(2 * i, 2), 16);
  return out;
}

/* One byte a token, 0 or 1; null (everything was kept) gives ones. */
function bitsOfHex(hex, count) {
  const out = new Uint8Array(count);
  if (hex == null) return out.fill(1);
  const packed = bytesOfHex(hex);
  for (let i = 0; i < count; i++) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return out;
}

function product(grid) {
  return grid.reduce((a, b) => a * b, 1);
}

/* The slab of tokens [d] to show in a thumbnail: where most were kept; the middle one if all were. */
function busiestSlab(bits, grid) {
  const [d, h, w] = grid;
  let best = d >> 1, most = -1;
  const sums = Array.from({ length: d }, (_, i) => {
    let sum = 0;
    for (let j = i * h * w; j < (i + 1) * h * w; j++) sum += bits[j];
    return sum;
  });
  if (sums.every((sum) => sum === sums[0])) return best;
  sums.forEach((sum, i) => { if (sum > most) { most = sum; best = i; } });
  return best;
}

/* A NIfTI-1 file of bytes [d, h, w] with the affine given as rows, for NiiVue. */
function niftiOfBytes(values, grid, affine) {
  const [d, h, w] = grid;
  const buffer = new ArrayBuffer(352 + values.length);
  const view = new DataView(buffer);
  view.setInt32(0, 348, true);
  [3, w, h, d, 1, 1, 1, 1].forEach((n, i) => view.setInt16(40 + 2 * i, n, true));
  view.setInt16(70, 2, true); // uint8
  view.setInt16(72, 8, true);
  const size = [0, 1, 2].map((c) => Math.hypot(affine[0][c], affine[1][c], affine[2][c]));
  [1, ...size].forEach((n, i) => view.setFloat32(76 + 4 * i, n, true));
  view.setFloat32(108, 352, true);
  view.setFloat32(112, 1, true);
  view.setUint8(123, 2); // millimetres
  view.setInt16(254, 1, true); // the affine below is the scanner's
  affine.slice(0, 3).forEach((row, r) =>
    row.forEach((n, c) => view.setFloat32(280 + 16 * r + 4 * c, n, true)));
  [110, 43, 49, 0].forEach((byte, i) => view.setUint8(344 + i, byte)); // "n+1"
  new Uint8Array(buffer, 352).set(values);
  return buffer;
}

/* Affine of the token grid [d, h, w] over voxels of `shape` (W, H, D) with their affine. */
function affineOfGrid(affine, shape, grid) {
  const side = [shape[0] / grid[2], shape[1] / grid[1], shape[2] / grid[0]];
  return affine.slice(0, 3).map((row) => [
    ...side.map((n, c) => row[c] * n),
    row[3] + side.reduce((sum, n, c) => sum + row[c] * (n - 1) / 2, 0),
  ]);
}

/* Bytes for the overlay: 0 is see-through, 1 to 255 a score. `dropped` shows what was not kept. */
function overlayBytes(bits, scores, dropped) {
  return bits.map((bit, i) => {
    if (dropped) return bit ? 0 : 255;
    if (!bit) return 0;
    return scores ? 1 + Math.round(scores[i] * 254 / 255) : 150;
  });
}

/* The rim of the voxels of a label map [D, H, W] whose id is among `ids`. */
function rimOf(labels, shape, ids) {
  const [w, h, d] = shape, wanted = new Uint8Array(65536);
  ids.forEach((id) => { wanted[id] = 1; });
  const out = new Uint8Array(labels.length);
  const inside = (x, y, z) => x >= 0 && y >= 0 && z >= 0 && x < w && y < h && z < d &&
    wanted[labels[(z * h + y) * w + x]];
  for (let z = 0, i = 0; z < d; z++) {
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++, i++) {
        if (!wanted[labels[i]]) continue;
        const deep = inside(x - 1, y, z) && inside(x + 1, y, z) && inside(x, y - 1, z) &&
          inside(x, y + 1, z) && inside(x, y, z - 1) && inside(x, y, z + 1);
        if (!deep) out[i] = 1;
      }
    }
  }
  return out;
}

/* Where to look first: the middle of the organ, else of what was kept; as fractions of the volume. */
function centreOf(values, shape) {
  const sum = [0, 0, 0], [w, h] = shape;
  let n = 0;
  for (let i = 0; i < values.length; i++) {
    if (!values[i]) continue;
    sum[0] += i % w; sum[1] += Math.floor(i / w) % h; sum[2] += Math.floor(i / (w * h));
    n++;
  }
  return n ? sum.map((s, axis) => (s / n + 0.5) / shape[axis]) : [0.5, 0.5, 0.5];
}
