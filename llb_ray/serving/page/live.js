"use strict";
// Keeps the report's decisions, which its own script holds in localStorage, in step with the server.
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("columns").textContent), key = `llb-ray:${data.key}`;
  const put = Storage.prototype.setItem;
  let seen = {}, version = -1, waiting = 0, queue = Promise.resolve();

  const stored = () => JSON.parse(localStorage.getItem(key) || "{}");
  const same = (one, other) => one?.decision === other?.decision && one?.note === other?.note;

  async function asked(address, options) {
    const answer = await fetch(address, options);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }

  // One after the other: the server has them in the order in which they were made.
  function post(address, body) {
    waiting += 1;
    queue = queue
      .then(() => asked(address, { method: "POST", body }))
      .then((state) => { waiting -= 1; if (!waiting) show(state); })
      .catch((error) => { waiting -= 1; trouble(`Not saved: ${error.message}`); });
  }

  Storage.prototype.setItem = function (name, value) {
    put.call(this, name, value);
    if (this !== localStorage || name !== key) return;
    const now = stored(), changes = {};
    for (const id of new Set([...Object.keys(seen), ...Object.keys(now)]))
      if (!same(seen[id], now[id])) changes[id] = now[id] || null;
    seen = now;
    if (Object.keys(changes).length) post("decisions", JSON.stringify(changes));
  };
  // Another tab of this browser has written there, and tells the server itself.
  addEventListener("storage", (event) => { if (event.key === key && event.isTrusted) seen = stored(); });

  function show(state) {
    if (state.version !== version) {
      version = state.version;
      seen = state.decisions;
      put.call(localStorage, key, JSON.stringify(seen));
      dispatchEvent(new StorageEvent("storage", { key }));
    }
    undo.disabled = !state.can_undo;
    showJob(state.job);
    trouble("");
  }

  function showJob(job) {
    repurify.disabled = job.state === "running";
    const counts = ({ kept, rejected, threshold }) =>
      `${kept} kept, ${rejected} rejected${threshold === null ? "" : `, threshold ${Number(threshold.toPrecision(4))}`}`;
    if (job.before) {
      line.textContent = `Before: ${counts(job.before)}. After: ${counts(job.after)}; ${job.num_changed} images changed. `;
      line.append(after);
    } else line.textContent = job.state === "none" ? "Saved as you decide." : `${job.state}: ${job.line}`;
  }

  const trouble = (text) => { at("trouble").textContent = text; };

  function button(id, text, act) {
    const made = document.createElement("button");
    Object.assign(made, { id, type: "button", textContent: text });
    made.addEventListener("click", act);
    return made;
  }

  const undo = button("undo", "Undo", () => post("undo"));
  const repurify = button("repurify", "Train with these decisions", () => post("repurify"));
  repurify.className = "main";
  const line = document.createElement("span"), after = document.createElement("a");
  line.id = "live";
  line.setAttribute("role", "status");
  Object.assign(after, { href: "after", textContent: "Its report", target: "_blank", rel: "noopener" });
  line.style.overflowWrap = "anywhere";
  at("download").parentElement.style.flexWrap = "wrap";
  at("download").className = "";
  at("download").before(undo);
  at("download").after(repurify);
  at("tally").after(" ", line);

  async function follow() {
    if (!waiting) {
      try {
        const state = await asked("state");
        if (!waiting) show(state);
      } catch {
        trouble("The review has ended: what you decide now is not saved.");
      }
    }
    setTimeout(follow, 1000);
  }
  // Asked about first: what changes most. The tab of all images has them.
  at("sort").value = "asked";
  document.querySelector("[data-show=all]").click();
  follow();
})();
