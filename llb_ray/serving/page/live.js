"use strict";
// Keeps the report's decisions, which its own script holds in localStorage, in step with the server.
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("columns").textContent), key = `llb-ray:${data.key}`, unsavedKey = `${key}:unsaved`;
  const put = Storage.prototype.setItem;

  const read = (name) => JSON.parse(localStorage.getItem(name) || "{}");
  const write = (name, value) => put.call(localStorage, name, JSON.stringify(value));
  const same = (one, other) => one?.decision === other?.decision && one?.note === other?.note;
  const isEmpty = (object) => Object.keys(object).length === 0;
  const REFUSED = 422;
  let seen = read(key), version = -1;

  async function asked(address, options) {
    const answer = await fetch(address, options);
    if (!answer.ok) throw Object.assign(new Error(`Not saved: ${await answer.text()}`), { status: answer.status });
    return answer.json();
  }

  // What the server has not confirmed stays in this browser, through a reload and a new address of the review.  One tab
  // at a time sends it, so that the server has the changes in the order in which they were made.
  const alone = (act) => navigator.locks.request(key, act);
  const post = (address, body) => asked(address, { method: "POST", body });

  async function send() {
    const sent = read(unsavedKey);
    if (isEmpty(sent)) return;
    await save(sent).catch(async (error) => {
      if (error.status !== REFUSED) throw error;
      // One of them is refused: the others do not wait for it.
      const found = await Promise.allSettled(Object.entries(sent).map(([id, one]) => save({ [id]: one })));
      const refused = found.find((one) => one.status === "rejected");
      if (refused) throw refused.reason;
    });
  }

  async function save(sent) {
    await post("decisions", JSON.stringify(sent));
    const left = read(unsavedKey);
    for (const id of Object.keys(sent)) if (JSON.stringify(left[id]) === JSON.stringify(sent[id])) delete left[id];
    write(unsavedKey, left);
  }

  function update(address, options) {
    const act = async () => {
      const trouble = await send().then(() => null, (error) => error);
      show(await asked(address, options));
      if (trouble) throw trouble;
    };
    return alone(act).then(() => trouble(""), (error) => trouble(error instanceof TypeError ? ENDED : error.message));
  }

  Storage.prototype.setItem = function (name, value) {
    put.call(this, name, value);
    if (this !== localStorage || name !== key) return;
    const now = JSON.parse(value), changes = {};
    for (const id of new Set([...Object.keys(seen), ...Object.keys(now)]))
      if (!same(seen[id], now[id])) changes[id] = now[id] || null;
    seen = now;
    if (isEmpty(changes)) return;
    write(unsavedKey, { ...read(unsavedKey), ...changes });
    update("state");
  };
  // Another tab of this browser has written there, and has noted what is unsaved.
  addEventListener("storage", (event) => { if (event.key === key && event.isTrusted) seen = read(key); });

  function show(state) {
    if (state.version !== version) {
      version = state.version;
      // What was decided in between is sent next, and what was refused is still to be seen.
      const known = Object.entries({ ...state.decisions, ...read(unsavedKey) });
      seen = Object.fromEntries(known.filter(([, one]) => one));
      write(key, seen);
      dispatchEvent(new StorageEvent("storage", { key }));
    }
    undo.disabled = !state.can_undo;
    showJob(state.job);
  }

  function showJob(job) {
    repurify.disabled = job.state === "running";
    const counts = ({ kept, rejected, threshold }) =>
      `${kept} kept, ${rejected} rejected${threshold === null ? "" : `, threshold ${Number(threshold.toPrecision(4))}`}`;
    if (job.before) {
      const [planted, was, now] = job.planted || [0];
      const found = planted ? ` Of ${planted} planted defects, ${was} were found before and ${now} now.` : "";
      line.textContent = `Before: ${counts(job.before)}. After: ${counts(job.after)}; ${job.num_changed} images changed.${found} `;
      line.append(after);
    } else line.textContent = job.state === "none" ? "Saved as you decide." : `${job.state}: ${job.line}`;
  }

  const ENDED = "The review has ended: what you decide now stays in this browser, and is saved once it is opened again.";
  const trouble = (text) => { at("trouble").textContent = text; };

  function button(id, text, act) {
    const made = document.createElement("button");
    Object.assign(made, { id, type: "button", textContent: text });
    made.addEventListener("click", act);
    return made;
  }

  const undo = button("undo", "Undo", () => update("undo", { method: "POST" }));
  const repurify = button("repurify", "Train with these decisions", () => update("repurify", { method: "POST" }));
  repurify.className = "main";
  const line = document.createElement("span"), after = document.createElement("a");
  line.id = "live";
  line.setAttribute("role", "status");
  Object.assign(after, { href: "after", textContent: "Its report", target: "_blank", rel: "noopener" });
  line.style.overflowWrap = "anywhere";
  at("download").parentElement.style.flexWrap = "wrap";
  at("download").before(undo, repurify);
  at("download").hidden = true;  // there is nothing to carry by hand
  document.querySelector("#decisions details").hidden = true;
  at("tally").after(" ", line);

  const follow = () => update("state").then(() => setTimeout(follow, 1000));
  // Asked about first: what changes most. The tab of all images has them.
  at("sort").value = "asked";
  document.querySelector("[data-show=all]").click();
  follow();
})();
