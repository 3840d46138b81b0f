/* A run: the list of cases with filters, and the case that is shown. */
"use strict";

const ROW = 68; // pixels; must be the height of .case in view.css

class Run {
  constructor(scan) {
    this.scan = scan;
    this.conditions = PHOTON.conditions;
    this.condition = this.conditions[0]?.name;
    this.cases = PHOTON.cases;
    this.found = this.cases;
    this.current = null;
    this.setUpFilters();
    const list = byId("list");
    list.onscroll = () => this.drawRows();
    new ResizeObserver(() => this.drawRows()).observe(list);
    window.onhashchange = () => this.fromAddress();
    this.filter();
    this.fromAddress();
  }

  keys() {
    const keys = {
      ArrowDown: ["next case", () => this.step(1)], ArrowUp: ["previous case", () => this.step(-1)],
      j: ["next case", () => this.step(1)], k: ["previous case", () => this.step(-1)],
      "/": ["search", () => byId("search").focus()],
    };
    this.conditions.slice(0, 9).forEach((one, i) => {
      keys[String(i + 1)] = [`what was kept: ${one.title}`, () => this.choose(one.name)];
    });
    return keys;
  }

  setUpFilters() {
    const names = [...new Set(this.cases.map((one) => one.subtask))].sort();
    byId("subtask").append(make("option", { value: "", textContent: "all subtasks" }),
      ...names.map((name) => make("option", { value: name, textContent: words(name) })));
    this.inputs = [...byId("filters").querySelectorAll("input, select")];
    for (const input of this.inputs) input.oninput = () => this.filter();
    byId("clear").onclick = () => {
      for (const input of this.inputs) input.value = "";
      this.filter();
    };
  }

  filter() {
    const value = Object.fromEntries(this.inputs.map((input) => [input.id, input.value]));
    const wanted = value.search.toLowerCase().split(/\s+/).filter(Boolean);
    this.found = this.cases.filter((one) => {
      const own = this.answer(one), share = own?.tokens ? own.kept / own.tokens : null;
      const text = `${one.question} ${one.answer} ${own?.text} ${one.patient} ${one.organ} ${one.id}`
        .toLowerCase();
      return wanted.every((word) => text.includes(word)) &&
        (!value.subtask || one.subtask === value.subtask) &&
        this.judged(one, value.verdict) &&
        within(share, value["kept-low"], value["kept-high"]) &&
        within(one.coverage, value["organ-low"], value["organ-high"]);
    });
    byId("clear").hidden = !this.inputs.some((input) => input.value);
    const right = this.found.map((one) => this.answer(one)?.right).filter((r) => r != null);
    const share = right.filter(Boolean).length / right.length;
    byId("count").textContent = `${this.found.length.toLocaleString("en")} of ` +
      `${this.cases.length.toLocaleString("en")} cases` +
      (right.length ? `, ${(100 * share).toFixed(1)} % right` : "");
    byId("rows").style.height = `${this.found.length * ROW}px`;
    byId("list").scrollTop = 0;
    this.drawRows();
  }

  judged(one, verdict) {
    const own = this.answer(one)?.right;
    if (verdict === "right") return own === true;
    if (verdict === "wrong") return own === false;
    if (verdict === "number") return own == null;
    if (verdict !== "helped") return true;
    return own === true && Object.values(one.by).some((other) => other.right === false);
  }

  answer(one) {
    return one.by[this.condition];
  }

  drawRows() {
    const list = byId("list"), rows = byId("rows");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(this.found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
    rows.replaceChildren(...this.found.slice(first, last).map((one, i) => this.row(one, first + i)));
  }

  row(one, index) {
    const own = this.answer(one);
    const element = make("div", { className: "case", role: "option", data: { id: one.id } },
      this.thumbnail(one, own),
      make("div", { className: "text" },
        make("div", { className: "asked", textContent: one.question.split("\n")[0], title: one.question }),
        make("div", { className: "said" }, verdictMark(own),
          make("span", { textContent: own?.text || "(no answer)" }),
          own && own.right !== true ? make("span", { className: "truth", textContent: one.answer }) : null),
        make("div", { className: "faint small", textContent:
          `${words(one.subtask)}  \u00b7  kept ${share(own)}` +
          (one.coverage == null ? "" : `  \u00b7  organ ${percent(one.coverage)}`) })));
    element.style.top = `${index * ROW}px`;
    element.setAttribute("aria-selected", one === this.current);
    element.onclick = () => this.open(one);
    return element;
  }

  thumbnail(one, own) {
    const box = make("div", { className: "thumb" });
    if (one.volume == null) return box;
    const volume = PHOTON.volumes[one.volume], [d, h, w] = volume.grid;
    const bits = own?.mask ? bitsOfHex(own.mask, product(volume.grid)) : null;
    const slab = bits ? busiestSlab(bits, volume.grid) : d >> 1;
    box.style.backgroundImage = `url(thumbs/${one.volume}.jpg)`;
    box.style.backgroundSize = `${d * 100}% 100%`;
    box.style.backgroundPosition = `${d > 1 ? slab * 100 / (d - 1) : 0}% 0`;
    if (bits) {
      let path = "";
      for (let y = 0; y < h; y++) {
        for (let x = 0; x < w; x++) if (bits[(slab * h + y) * w + x]) path += `M${x} ${y}h1v1h-1z`;
      }
      box.innerHTML = `<svg viewBox="0 0 ${w} ${h}" preserveAspectRatio="none"><path d="${path}"/></svg>`;
    }
    return box;
  }

  step(by) {
    const at = this.found.indexOf(this.current);
    const next = this.found[Math.max(0, Math.min(this.found.length - 1, at + by))];
    if (next) this.open(next);
  }

  fromAddress() {
    const id = decodeURIComponent(location.hash.slice(1));
    if (id && id === this.current?.id) return;
    this.open(this.cases.find((one) => one.id === id) || this.found[0]);
  }

  open(one) {
    if (!one) return;
    this.current = one;
    history.replaceState(null, "", `#${encodeURIComponent(one.id)}`);
    const list = byId("list"), at = this.found.indexOf(one);
    if (at >= 0 && at * ROW < list.scrollTop) list.scrollTop = at * ROW;
    if (at >= 0 && (at + 1) * ROW > list.scrollTop + list.clientHeight) {
      list.scrollTop = (at + 1) * ROW - list.clientHeight;
    }
    this.drawRows();
    this.drawCase();
    return this.redraw();
  }

  choose(condition) {
    this.condition = condition;
    this.filter();
    this.drawCase();
    this.redraw();
  }

  redraw() {
    const one = this.current;
    byId("message").textContent = "";
    if (!one || one.volume == null) {
      byId("message").textContent = "This question is about images: no volume to draw.";
      return;
    }
    const volume = PHOTON.volumes[one.volume], own = this.answer(one);
    const count = product(volume.grid), blind = !own?.tokens;
    const bits = blind ? null : bitsOfHex(own.mask, count);
    const scores = own?.scores ? bytesOfHex(own.scores) : null;
    byId("organ-box").hidden = !(volume.labels && one.evidence.length);
    byId("scale").hidden = this.scan.overlay !== "kept" || !scores;
    return this.scan.show(one.volume, volume, bits, scores, one.evidence, one.evidence.join()).then(() => problem(""),
      (error) => problem(`The scan of ${one.id} cannot be shown: ${error.message}. ` +
        "Write the page again with python -m photon view."));
  }

  drawCase() {
    const one = this.current;
    if (!one) return;
    const rows = this.conditions.filter((c) => one.by[c.name]).map((c) => {
      const own = one.by[c.name];
      const row = make("button", { type: "button", className: "condition" },
        make("span", { className: "name", textContent: c.title }), verdictMark(own),
        make("span", { className: "answer", textContent: own.text || "(no answer)" }),
        meter(own));
      row.setAttribute("aria-pressed", c.name === this.condition);
      row.onclick = () => this.choose(c.name);
      return row;
    });
    const [asked, ...options] = one.question.split("\n");
    byId("case-pane").replaceChildren(...[
      make("div", { className: "chips" }, ...[words(one.subtask), one.organ, one.patient]
        .filter(Boolean).map((text) => make("span", { className: "chip", textContent: text }))),
      make("h1", { textContent: asked }),
      options.length ? make("pre", { className: "options", textContent: options.join("\n") }) : null,
      make("div", { className: "truth-box" }, make("span", { className: "label", textContent: "truth" }),
        make("b", { textContent: one.answer })),
      make("div", { className: "label", textContent: "answers, and what is drawn" }),
      make("div", { className: "conditions" }, ...rows),
      one.coverage == null ? null : make("p", { className: "faint", textContent:
        `${percent(one.coverage)} of the tokens of the organ asked about were kept.` }),
      make("p", { className: "faint small mono", textContent: one.id }),
    ].filter(Boolean));
  }
}

function words(name) {
  return name.replaceAll("_", " ");
}

function share(own) {
  return own?.tokens ? percent(own.kept / own.tokens) : "\u2013";
}

function within(value, low, high) {
  if (low === "" && high === "") return true;
  return value != null && 100 * value >= (low === "" ? 0 : +low) - 1e-9 &&
    100 * value <= (high === "" ? 100 : +high) + 1e-9;
}

function verdictMark(own) {
  if (!own) return make("span");
  if (own.right == null) {
    return make("span", { className: "mark number", textContent: percent(own.score), title: "MRA" });
  }
  return make("span", { className: own.right ? "mark right" : "mark wrong",
    textContent: own.right ? "\u2713" : "\u2717", title: own.right ? "right" : "wrong" });
}

function meter(own) {
  if (!own.tokens) return make("span", { className: "meter faint", textContent: "no scan" });
  const bar = make("span", { className: "bar" }, make("i"));
  bar.firstChild.style.width = `${100 * own.kept / own.tokens}%`;
  return make("span", { className: "meter" }, bar,
    make("span", { textContent: `${own.kept} of ${own.tokens}` }));
}
