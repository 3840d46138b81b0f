/* A scan and a model: questions, streamed answers, the budget. */
"use strict";

class Live {
  constructor(scan) {
    this.scan = scan;
    this.volume = PHOTON.volumes[0];
    this.turns = PHOTON.turns;
    this.kept = null; // of the turn that is drawn: {mask, scores, kept, tokens}
    this.busy = false;
    for (const note of PHOTON.notes) byId("notes").append(make("p", { textContent: note }));
    byId("organ-box").hidden = true;
    byId("ask").onsubmit = (event) => { event.preventDefault(); this.ask(); };
    byId("question").onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); this.ask(); }
    };
    byId("again").onclick = () => this.forget();
    const slider = byId("budget-slider");
    slider.max = PHOTON.tokens;
    slider.oninput = () => this.select(+slider.value);
    slider.onchange = () => this.answerAgain(+slider.value);
    byId("budget-own").onclick = () => this.answerAgain(null);
    byId("budget-own").hidden = !PHOTON.threshold;
    this.drawTurns();
    if (this.turns.length) this.use(this.turns.at(-1));
    else this.redraw();
    byId("question").focus();
  }

  keys() {
    return { "/": ["ask", () => byId("question").focus()] };
  }

  use(told) {
    this.kept = told;
    this.redraw();
    byId("budget").hidden = !PHOTON.prunes || !this.turns.length;
    byId("budget-slider").value = told.kept;
    byId("budget-text").textContent =
      `${told.kept} of ${told.tokens} tokens (${percent(told.kept / told.tokens)})`;
  }

  redraw() {
    const told = this.kept, count = product(this.volume.grid);
    const bits = told ? bitsOfHex(told.mask, count) : null;
    const scores = told?.scores ? bytesOfHex(told.scores) : null;
    byId("scale").hidden = this.scan.overlay !== "kept" || !scores;
    return this.scan.show(0, this.volume, bits, scores, [], told?.question).catch((error) =>
      problem(`The scan cannot be shown: ${error.message}`));
  }

  drawTurns() {
    const box = byId("turns");
    box.replaceChildren(...this.turns.map((turn) => make("div", { className: "turn" },
      make("div", { className: "q", textContent: turn.question }),
      make("div", { className: "a", textContent: turn.answer || "(no answer)" }),
      make("div", { className: "faint small", textContent:
        `kept ${turn.kept} of ${turn.tokens} tokens (${percent(turn.kept / turn.tokens)}), ` +
        `${turn.seconds.toFixed(2)} s` + (turn.stopped ? ", stopped: it repeated itself" : "") }))));
    if (!this.turns.length) {
      box.append(make("p", { className: "faint", textContent:
        "The scan is read with the first question; each further one selects its own tokens." }));
    }
    box.scrollTop = box.scrollHeight;
  }

  ask() {
    const field = byId("question"), question = field.value.trim();
    if (!question || this.busy) return;
    field.value = "";
    this.stream("ask", { question, keep: this.budget ?? null }, question).then((done) => {
      if (!done) field.value = question;
    });
  }

  answerAgain(keep) {
    this.budget = keep;
    if (this.turns.length) this.stream("again", { keep }, this.turns.at(-1).question);
  }

  /* What a budget would keep, while the slider moves; the newest request wins. */
  async select(keep) {
    const mine = this.asked = {};
    byId("budget-text").textContent = `${keep} of ${PHOTON.tokens} tokens`;
    if (this.busy || this.selecting) return;
    this.selecting = true;
    try {
      const told = await (await this.post("select", { keep })).json();
      if (mine === this.asked) this.use({ ...told, question: this.kept.question });
    } catch (error) {
      problem(error.message);
    } finally {
      this.selecting = false;
      if (mine !== this.asked) this.select(+byId("budget-slider").value);
    }
  }

  forget() {
    this.post("forget", {}).then(() => {
      this.turns = [];
      this.kept = null;
      this.budget = null;
      byId("budget").hidden = true;
      this.drawTurns();
      this.redraw();
      problem("");
    }, (error) => problem(error.message));
  }

  async post(what, body) {
    let response;
    try {
      response = await fetch(what, { method: "POST", body: JSON.stringify(body),
        headers: { "Content-Type": "application/json" } });
    } catch {
      throw new Error("The server does not answer: is python -m photon view still running?");
    }
    if (!response.ok) throw new Error((await response.text()) || response.statusText);
    return response;
  }

  /* Ask and read the lines of the answer as they come; false where it failed. */
  async stream(what, body, question) {
    this.busy = true;
    problem("");
    byId("send").disabled = true;
    const said = make("div", { className: "a pending" });
    const box = byId("turns");
    if (what === "again") box.lastChild.remove();
    else if (!this.turns.length) box.replaceChildren();
    box.append(make("div", { className: "turn" }, make("div", { className: "q", textContent: question }), said));
    box.scrollTop = box.scrollHeight;
    let done = null;
    try {
      const reader = (await this.post(what, body)).body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done: ended } = await reader.read();
        if (ended) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const told = JSON.parse(line);
          if (told.error) throw new Error(told.error);
          if (told.text) said.textContent += told.text;
          if (told.turn) done = told.turn;
        }
      }
      if (!done) throw new Error("The answer was cut off.");
      this.turns = what === "again" ? [...this.turns.slice(0, -1), done] : [...this.turns, done];
    } catch (error) {
      problem(error.message);
    } finally {
      this.busy = false;
      byId("send").disabled = false;
      this.drawTurns();
    }
    if (done) this.use(done);
    return done;
  }
}
