"use strict";
// Names of files and runs are put into the page as text, never as markup.
(() => {
  const at = (id) => document.getElementById(id);
  const number = (value) => Number(value.toPrecision(4)).toString();

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  async function asked(address, options = {}) {
    const token = at("token").value;
    const answer = await fetch(address, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
    if (answer.status === 401) at("token-box").hidden = false;
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.detail || `the service answered ${answer.status}`);
    return said;
  }

  async function listRuns() {
    const { runs } = await asked("runs");
    at("run").replaceChildren(...runs.map((name) => new Option(name, name)));
    at("trouble").textContent = "";
  }

  // A file at a time: a bad one does not cost the verdicts on the others.
  async function judge(files) {
    at("trouble").textContent = "";
    let judged = 0, refused = 0;
    const tell = () => {
      at("status").textContent = `${judged} of ${files.length} judged${refused ? `, ${refused} refused` : ""}`;
    };
    for (const file of files) {
      tell();
      try {
        const form = new FormData();
        form.append("images", file, file.name);
        const address = `runs/${encodeURIComponent(at("run").value)}/predict?overlay=true`;
        show(await asked(address, { method: "POST", body: form }));
        judged += 1;
      } catch (error) {
        at("trouble").append(make("div", "", error.message));
        refused += 1;
      }
    }
    tell();
  }

  function show({ run, threshold, images }) {
    for (const image of images) {
      const card = make("div", `verdict ${image.decision}`), about = make("div", "about");
      card.setAttribute("role", "listitem");
      const picture = make("img");
      picture.src = image.overlay;
      picture.alt = `${image.name} with its heatmap`;
      const places = image.regions === null ? [] : [make("div", "numbers", `regions: ${image.regions.length}`)];
      const share = `${(100 * image.quantile).toFixed(1)} % of held-out normal images score lower`;
      about.append(
        make("strong", "", image.name),
        make("div", "decision", image.decision),
        make("div", "numbers", `score ${number(image.score)}, threshold ${number(threshold)} (${run})`),
        make("div", "numbers", share),
        ...places,
      );
      card.append(picture, about);
      at("verdicts").prepend(card);
    }
  }

  const fail = (error) => { at("trouble").textContent = error.message; };
  at("ask").addEventListener("submit", (event) => event.preventDefault());
  at("token").addEventListener("change", () => listRuns().catch(fail));
  at("files").addEventListener("change", () => judge([...at("files").files]).then(() => { at("files").value = ""; }));
  for (const kind of ["dragover", "dragleave", "drop"])
    at("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
    });
  at("drop").addEventListener("drop", (event) => judge([...event.dataTransfer.files]));
  listRuns().catch(fail);
})();
