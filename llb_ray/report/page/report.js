"use strict";
// Everything that comes from the run is put into the page as text, never as markup.
(() => {
  const PER_PAGE = 48, MOST_SQUARES = 12, MOST_GROUPS = 300;
  const UNASKED = 255, OBJECTS = 128;
  const KEYS = { k: "keep", r: "reject", u: "unsure" };
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("columns").textContent);
  const count = data.image_id.length, numMembers = data.members.length;
  const votes = bytes(data.votes), colours = bytes(data.colours);
  const place = new Map(data.image_id.map((id, i) => [id, i]));
  const state = { show: data.num_near ? "near" : "all", list: [], page: 0, card: 0, closeUp: -1 };

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const number = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toString());

  // ---- what the person at the page decides; kept in the browser, by run ----

  const storeKey = `llb-ray:${data.key}`;
  let said = stored();

  function stored() {
    try {
      return new Map(Object.entries(JSON.parse(localStorage.getItem(storeKey) || "{}")));
    } catch {
      return new Map();
    }
  }

  function save() {
    try {
      localStorage.setItem(storeKey, JSON.stringify(Object.fromEntries(said)));
      at("trouble").textContent = "";
    } catch {
      at("trouble").textContent = "This browser does not keep decisions: download them before you leave.";
    }
    tally();
  }

  const word = (i) => said.get(data.image_id[i])?.decision || "";
  const note = (i) => said.get(data.image_id[i])?.note || "";

  function set(i, change) {
    const now = { decision: word(i), note: note(i), ...change };
    if (now.decision || now.note) said.set(data.image_id[i], now);
    else said.delete(data.image_id[i]);
  }

  function say(i, change) {
    set(i, change);
    save();
    refresh(i);
  }

  const decide = (i, chosen) => say(i, { decision: word(i) === chosen ? "" : chosen });

  function decideFamily(i, chosen) {
    const rows = alike(i);
    const now = rows.every((row) => word(row) === chosen) ? "" : chosen;
    for (const row of rows) set(row, { decision: now });
    save();
    for (const shown of document.querySelectorAll(".card")) mark(shown, Number(shown.dataset.row));
    if (state.closeUp >= 0) mark(at("close-up-choice"), state.closeUp);
    const head = document.querySelector(`.family[data-family="${family(i)}"]`);
    if (head) markFamily(head, rows);
  }

  function tally() {
    const words = [...said.values()].map((one) => one.decision).filter(Boolean);
    const counts = ["keep", "reject", "unsure"].map((one) => `${words.filter((each) => each === one).length} ${one}`);
    at("tally").textContent = words.length ? `Your decisions: ${counts.join(", ")}` : "No decisions yet";
    at("download").disabled = at("clear").disabled = !words.length;
    at("decisions").classList.toggle("some", words.length > 0);
  }

  function csv() {
    const cell = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    // A name that a spreadsheet would take for a formula is written as the same path, spelt otherwise.
    const path = (text) => (/^[=+\-@\t\r]/.test(text) ? `./${text}` : text);
    const rows = [...said].filter(([id, one]) => one.decision && place.has(id));
    const noted = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
    const lines = rows.map(([id, one]) =>
      [id, path(data.path[place.get(id)]), one.decision, noted(one.note)].map(cell).join(","));
    return ["image_id,path,decision,note", ...lines, ""].join("\r\n");
  }

  function download() {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "overrides.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // ---- which images, in which order ----

  const texts = data.path.map((path, i) =>
    [path, data.reason[i], data.image_id[i], data.group?.[i], data.known?.[i]].join("\n").toLowerCase());
  const family = (i) => data.family?.[i] ?? null;
  const familySize = {};
  for (const one of data.family || []) if (one !== null) familySize[one] = (familySize[one] || 0) + 1;
  const SHOWN = {
    near: (i) => i < data.num_near,
    rejected: (i) => !data.kept[i],
    kept: (i) => data.kept[i],
    "standing-out": (i) => data.stands_out[i],
    alike: (i) => familySize[family(i)] > 1,
    all: () => true,
  };
  const SAID = {
    "": () => true,
    open: (i) => !word(i),
    done: (i) => word(i),
    before: (i) => data.said[data.image_id[i]],
  };
  const by = (column, sign) => (a, b) => sign * (data[column][a] - data[column][b]) || a - b;
  const objections = data.image_id.map((_, i) => {
    let objecting = 0;
    for (let m = 0; m < numMembers; m++) objecting += objects(votes[i * numMembers + m]);
    return objecting;
  });
  const ORDERS = {
    near: [data.num_near ? "nearest to the cut" : "final score, highest first", (a, b) => a - b],
    asked: ["answer changes most, first", by("worth", -1)],
    ...(data.num_near && {
      odd: ["aggregate, highest first", by("aggregate", -1)],
      usual: ["aggregate, lowest first", by("aggregate", 1)],
      score: ["final score, highest first", by("score", -1)],
      objections: ["most objections", (a, b) => objections[b] - objections[a] || a - b],
    }),
    name: ["name", (a, b) => (data.path[a] < data.path[b] ? -1 : 1)],
  };

  function objects(code) {
    return code !== UNASKED && code >= OBJECTS;
  }

  function filter() {
    const wanted = at("find").value.trim().toLowerCase();
    const group = at("group").value.trim().toLowerCase();
    const category = at("category").value, decided = at("said").value;
    const fits = SAID[decided] || ((i) => word(i) === decided);
    const others = (i) =>
      fits(i) &&
      (category === "" || data.category.rows[i] === Number(category)) &&
      (group === "" || data.group[i].toLowerCase().includes(group)) &&
      (wanted === "" || texts[i].includes(wanted) || note(i).toLowerCase().includes(wanted));
    const some = data.path.map((_, i) => i).filter(others);
    for (const tab of document.querySelectorAll("[data-show]")) {
      tab.querySelector("span").textContent = some.filter(SHOWN[tab.dataset.show]).length.toLocaleString("en");
      tab.setAttribute("aria-pressed", tab.dataset.show === state.show);
    }
    const order = ORDERS[at("sort").value][1];
    const together = (a, b) => (state.show === "alike" ? family(a) - family(b) : 0);
    state.list = some.filter(SHOWN[state.show]).sort((a, b) => together(a, b) || order(a, b));
    turn(0);
  }

  // Of what is listed: images that a filter hides are not decided on.
  const alike = (i) => state.list.filter((row) => family(row) === family(i));

  // ---- pictures: parsed, decoded and painted when they are looked at ----

  const chunks = [];

  function picture(i) {
    const c = Math.floor(i / data.per_chunk);
    chunks[c] ??= JSON.parse(at(`pictures-${c}`).textContent);
    return chunks[c][i % data.per_chunk];
  }

  async function image(text) {
    const made = new Image();
    made.src = `data:image/webp;base64,${text}`;
    await made.decode();
    return made;
  }

  // The overlay of llb_ray/report/heatmaps.py: more opaque where it is more anomalous.
  async function heat(text) {
    const map = await image(text);
    const small = new OffscreenCanvas(map.width, map.height);
    const context = small.getContext("2d", { willReadFrequently: true });
    context.drawImage(map, 0, 0);
    const pixels = context.getImageData(0, 0, map.width, map.height);
    for (let p = 0; p < pixels.data.length; p += 4) {
      const share = pixels.data[p];
      pixels.data.set(colours.subarray(3 * share, 3 * share + 3), p);
      pixels.data[p + 3] = data.opacity * share;
    }
    context.putImageData(pixels, 0, 0);
    return small;
  }

  function pictured(i, framed) {
    const box = make("div", "picture"), [photo, map] = picture(i), canvas = make("canvas");
    if (photo === null) box.append(make("span", "none", "photograph gone or changed"));
    box.append(canvas);
    fill(box, canvas, photo, map, data.path[i]).then(() => {
      if (framed && data.place_name[i]) box.append(frame(i, canvas.width, canvas.height));
    });
    return box;
  }

  // Where the image is most unusual, as a frame; the picture is centred in a square.
  function frame(i, width, height) {
    const [x, y, wide, high] = data.place[i], side = Math.max(width, height), made = make("div", "box");
    const percent = (pixels) => `${(100 * pixels) / side}%`;
    made.style.left = percent((side - width) / 2 + x * width);
    made.style.top = percent((side - height) / 2 + y * height);
    made.style.width = percent(wide * width);
    made.style.height = percent(high * height);
    return made;
  }

  async function fill(box, canvas, photo, map, name) {
    const shown = photo === null ? null : await image(photo);
    if (shown) {
      shown.alt = name;
      box.prepend(shown);
    }
    const hot = await heat(map);
    [canvas.width, canvas.height] = shown ? [shown.naturalWidth, shown.naturalHeight] : [4 * hot.width, 4 * hot.height];
    const context = canvas.getContext("2d");
    context.drawImage(hot, 0, 0, canvas.width, canvas.height);
  }

  // ---- the cards ----

  const asked = (i) => votes.subarray(i * numMembers, (i + 1) * numMembers).filter((code) => code !== UNASKED).length;
  const decision = (i) => (data.kept[i] ? "kept" : "rejected");
  const before = (i) => data.said[data.image_id[i]];

  // Which round of the filter, or who, had the last word on the image.
  function spoke(i) {
    const earlier = before(i);
    if (earlier && earlier.decision !== "unsure") return `by hand${earlier.by ? ` (${earlier.by})` : ""}`;
    if (data.rounds.length < 2) return "";
    if (data.rounds.every((round) => round[i] === data.kept[i])) return data.rounds.length === 2 ? "by both rounds" : "by all rounds";
    return `by round ${data.rounds.length}`;
  }

  function measured(i) {
    if (data.aggregate[i] === null || data.cut === null) return `score ${number(data.score[i])}`;
    return `${number(data.aggregate[i])} ${data.aggregate[i] <= data.cut ? "≤" : ">"} cut ${number(data.cut)}`;
  }

  function unusual(i) {
    const [peak, low, high] = data.peak[i].map((value) => Number(value.toPrecision(3)).toString());
    return data.place_name[i] ? `${data.place_name[i]}: ${peak}, others ${low} to ${high}` : "within the range of others";
  }

  // Members are asked in round 1; what they say one by one need not be what they decide together.
  function objecting(i) {
    const rejected = !data.rounds[0][i], most = 2 * objections[i] > asked(i);
    const together = rejected === most ? "" : `, together they ${rejected ? "reject" : "keep"}`;
    return `${data.rounds.length > 1 ? "round 1: " : ""}${objections[i]} of ${asked(i)} object${together}`;
  }

  function squares(i) {
    const row = make("div", "votes");
    if (!numMembers) return row;
    for (let m = 0; numMembers <= MOST_SQUARES && m < numMembers; m++) {
      const [kind, title] = vote(i, m);
      const square = make("span", `vote ${kind}`);
      square.title = `member ${data.members[m]} ${title}`;
      row.append(square);
    }
    row.append(make("span", "", objecting(i)));
    return row;
  }

  function vote(i, m) {
    const code = votes[i * numMembers + m];
    const trained = data.trained_by[i] === m;
    if (code === UNASKED) return trained ? ["trained", "trained on it"] : ["lost", "has no score"];
    return objects(code) ? ["objects", "objects"] : ["fine", "does not object"];
  }

  function choice(i, tabIndex) {
    const row = make("div", "choice");
    for (const one of ["keep", "unsure", "reject"]) {
      const button = make("button", "", one);
      button.type = "button";
      button.tabIndex = tabIndex;
      button.dataset.word = one;
      button.addEventListener("click", () => decide(i, one));
      row.append(button);
    }
    return row;
  }

  function card(i) {
    const made = make("div", "card"), about = make("div", "about");
    made.setAttribute("role", "listitem");
    made.dataset.row = i;
    made.tabIndex = -1;
    const shown = pictured(i);
    shown.addEventListener("click", () => look(i));
    const name = make("span", "name");
    name.title = data.path[i];
    name.append(make("bdi", "", data.path[i]));
    const line = make("div", "line");
    line.append(make("span", `decision ${decision(i)}`, `${decision(i)} ${spoke(i)}`.trim()));
    if (data.known?.[i]) line.append(make("span", "known", `labelled ${data.known[i]}`));
    const numbers = make("div", "numbers", measured(i));
    numbers.title = data.cut === null ? "score of the final detector" : data.compared;
    const place = make("div", "numbers", unusual(i));
    place.title = "where its anomaly map is furthest above that of the kept images, and the range of these there";
    about.append(name, line, numbers, place, squares(i));
    made.append(shown, about, choice(i, -1));
    mark(made, i);
    return made;
  }

  function familyHead(i) {
    const head = make("div", "family"), rows = alike(i);
    head.setAttribute("role", "listitem");
    head.dataset.family = family(i);
    const kept = rows.filter((row) => data.kept[row]).length;
    head.append(make("strong", "", `${rows.length} look${rows.length > 1 ? "" : "s"} alike`), make("span", "", `${kept} kept, ${rows.length - kept} rejected`));
    for (const one of ["keep", "unsure", "reject"]) {
      const button = make("button", "", `${one} all`);
      button.type = "button";
      button.dataset.word = one;
      button.addEventListener("click", () => decideFamily(i, one));
      head.append(button);
    }
    markFamily(head, rows);
    return head;
  }

  function markFamily(head, rows) {
    for (const button of head.querySelectorAll("[data-word]"))
      button.setAttribute("aria-pressed", rows.every((row) => word(row) === button.dataset.word));
  }

  function mark(element, i) {
    element.dataset.said = word(i);
    for (const button of element.querySelectorAll("[data-word]"))
      button.setAttribute("aria-pressed", button.dataset.word === word(i));
    if (element.classList.contains("card"))
      element.setAttribute("aria-label", [data.path[i], decision(i), spoke(i), measured(i), unusual(i), numMembers && objecting(i), word(i) && `you say ${word(i)}`].filter(Boolean).join(", "));
  }

  function refresh(i) {
    const shown = document.querySelector(`.card[data-row="${i}"]`);
    if (shown) mark(shown, i);
    if (state.closeUp === i) mark(at("close-up-choice"), i);
    const head = document.querySelector(`.family[data-family="${family(i)}"]`);
    if (head) markFamily(head, alike(i));
  }

  const numPages = () => Math.max(1, Math.ceil(state.list.length / PER_PAGE));

  function turn(page, focus) {
    state.page = Math.min(Math.max(page, 0), numPages() - 1);
    const rows = state.list.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
    const begins = (n) => state.show === "alike" && (n === 0 || family(rows[n]) !== family(rows[n - 1]));
    at("cards").replaceChildren(...rows.flatMap((i, n) => (begins(n) ? [familyHead(i), card(i)] : [card(i)])));
    at("nothing").hidden = rows.length > 0;
    at("page").textContent = `Page ${state.page + 1} of ${numPages()}, ${state.list.length.toLocaleString("en")} images`;
    at("previous").disabled = state.page === 0;
    at("next").disabled = state.page === numPages() - 1;
    reach(focus === "last" ? rows.length - 1 : 0, Boolean(focus));
  }

  const shownCards = () => [...at("cards").querySelectorAll(".card")];

  function reach(index, focus) {
    const cards = shownCards();
    if (!cards.length) return;
    for (const one of cards) {
      one.tabIndex = -1;
      one.classList.remove("current");
    }
    state.card = Math.min(Math.max(index, 0), cards.length - 1);
    cards[state.card].tabIndex = 0;
    cards[state.card].classList.add("current");
    if (focus) cards[state.card].focus();
  }

  function move(step) {
    const target = state.card + step, last = shownCards().length - 1;
    if (target < 0 && state.page > 0) turn(state.page - 1, "last");
    else if (target > last && state.page < numPages() - 1) turn(state.page + 1, "first");
    else reach(target, true);
  }

  // Cards from the one in focus to that above it (-1) or below it (1): families leave their last rows ragged.
  function rowAway(sign) {
    const cards = shownCards(), now = cards[state.card];
    const further = cards.filter((one) => sign * (one.offsetTop - now.offsetTop) > 0);
    if (!further.length) return sign * cards.length;
    const row = sign * Math.min(...further.map((one) => sign * one.offsetTop));
    const away = (one) => Math.abs(one.offsetLeft - now.offsetLeft);
    const target = further.filter((one) => one.offsetTop === row).reduce((best, one) => (away(one) < away(best) ? one : best));
    return cards.indexOf(target) - state.card;
  }

  // ---- one image, closely ----

  function look(i) {
    state.closeUp = i;
    at("close-up-name").textContent = data.path[i];
    at("close-up-picture").replaceChildren(pictured(i, true));
    at("close-up-choice").replaceChildren(choice(i, 0));
    mark(at("close-up-choice"), i);
    at("close-up-reason").textContent = data.reason[i];
    describe(i);
    at("close-up-votes").replaceChildren(...data.members.map((_, m) => voteRow(i, m)));
    at("note").value = note(i);
    at("original").hidden = data.folder === null;
    if (data.folder !== null) at("original").href = data.folder + address(data.path[i]);
    if (!at("close-up").open) at("close-up").showModal();
  }

  function describe(i) {
    const earlier = before(i);
    const lines = {
      decision: `${decision(i)} ${spoke(i)}`.trim(),
      [data.compared]: data.aggregate[i] === null ? null : data.cut === null ? number(data.aggregate[i]) : measured(i),
      rank: data.rank[i] === null ? null : `${data.rank[i]} (1 is the most normal)`,
      "final score": number(data.score[i]),
      labelled: data.known?.[i],
      category: data.category.names[data.category.rows[i]],
      group: data.group?.[i],
      "look-alikes": familySize[family(i)] > 1 ? familySize[family(i)] - 1 : null,
      "by hand before": earlier && [earlier.decision, earlier.by, earlier.note].filter(Boolean).join(", "),
      image_id: data.image_id[i],
    };
    const shown = Object.entries(lines).filter(([, value]) => value !== null && value !== undefined);
    at("close-up-facts").replaceChildren(...shown.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  }

  function voteRow(i, m) {
    const code = votes[i * numMembers + m], [kind, title] = vote(i, m);
    const row = make("div", `vote-row ${kind}`), bar = make("progress");
    bar.max = 100;
    bar.value = code === UNASKED ? 0 : code % OBJECTS;
    bar.setAttribute("aria-label", `member ${data.members[m]}: more anomalous than ${bar.value} % of the images`);
    const found = code === UNASKED ? title : `${bar.value} %${kind === "objects" ? ", objects" : ""}`;
    row.append(make("span", "", `member ${data.members[m]}`), bar, make("span", "", found));
    return row;
  }

  // A path as the manifest writes it: a byte that is no text is \xNN, a backslash \\.
  function address(path) {
    return path.replace(/\\\\|\\x[0-9a-f]{2}|[^\\]+/g, (part) => {
      if (part === "\\\\") return "%5C";
      if (part[0] === "\\") return `%${part.slice(2)}`;
      return part.split("/").map(encodeURIComponent).join("/");
    });
  }

  function lookFurther(step) {
    const next = state.list[state.list.indexOf(state.closeUp) + step];
    if (next !== undefined) look(next);
  }

  function leave() {
    const index = state.list.indexOf(state.closeUp);
    state.closeUp = -1;
    if (index < 0) return;
    const page = Math.floor(index / PER_PAGE);
    if (page !== state.page) turn(page);
    reach(index % PER_PAGE, true);
  }

  // ---- keys ----

  // The card that keys are about: the marked one, or the first in sight where that has been scrolled away.
  function markedCard() {
    const cards = shownCards(), seen = (one) => {
      const { top, bottom } = one.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    if (cards[state.card] && !seen(cards[state.card])) {
      const first = cards.findIndex(seen);
      if (first >= 0) reach(first, false);
    }
    return cards[state.card];
  }

  function pressed(event) {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const inCloseUp = at("close-up").open, card = inCloseUp ? null : event.target.closest?.(".card") || markedCard();
    const onCard = card && event.target.closest?.(".card");
    // Without a card in focus, up and down scroll the page.
    const rows = onCard && { ArrowUp: () => rowAway(-1), ArrowDown: () => rowAway(1) };
    const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ...rows };
    const chosen = KEYS[event.key.toLowerCase()];
    const row = inCloseUp ? state.closeUp : card ? Number(card.dataset.row) : -1;
    if (event.key in steps && (inCloseUp || card)) (inCloseUp ? lookFurther : move)(steps[event.key]());
    else if (chosen && row >= 0) {
      (event.shiftKey && state.show === "alike" ? decideFamily : decide)(row, chosen);
      if (card && !onCard) card.focus();  // what was decided on is in sight
    } else if (event.key === "Enter" && card && (event.target === card || event.target === document.body)) look(row);
    else if (event.key === "h") at("overlay").click();
    else if (event.key === "n" && !inCloseUp) turn(state.page + 1, "first");
    else if (event.key === "p" && !inCloseUp) turn(state.page - 1, "first");
    else return;
    event.preventDefault();
  }

  // ---- beginning ----

  function options(select, pairs) {
    for (const [value, text] of pairs) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function prepare() {
    options(at("sort"), Object.entries(ORDERS).map(([name, [text]]) => [name, text]));
    options(at("category"), data.category.names.map((name, index) => [index, name]));
    at("category-box").hidden = data.category.names.length < 2;
    at("group-box").hidden = data.group === null;
    options(at("groups"), [...new Set(data.group || [])].sort().slice(0, MOST_GROUPS).map((name) => [name, name]));
    document.querySelector("[data-show=near]").hidden = !data.num_near;
    document.querySelector("[data-show=standing-out]").hidden = !data.stands_out.includes(1);
    const none = !Object.values(familySize).some((size) => size > 1);
    document.querySelector("[data-show=alike]").hidden = at("shift-hint").hidden = none;
    document.querySelector("#said [value=before]").hidden = !Object.keys(data.said).length;
    at("scale-low").textContent = number(data.scale.low);
    at("scale-high").textContent = number(data.scale.high);
    const context = at("scale").getContext("2d");
    for (let x = 0; x < 128; x++) {
      context.fillStyle = `rgb(${colours.subarray(6 * x, 6 * x + 3).join(",")})`;
      context.fillRect(x, 0, 1, 1);
    }
  }

  function listen() {
    for (const id of ["sort", "category", "said"]) at(id).addEventListener("change", filter);
    for (const id of ["find", "group"]) at(id).addEventListener("input", filter);
    for (const tab of document.querySelectorAll("[data-show]"))
      tab.addEventListener("click", () => { state.show = tab.dataset.show; filter(); });
    at("overlay").addEventListener("change", () => document.body.classList.toggle("no-heat", !at("overlay").checked));
    at("previous").addEventListener("click", () => turn(state.page - 1));
    at("next").addEventListener("click", () => turn(state.page + 1));
    at("cards").addEventListener("focusin", (event) => {
      const focused = event.target.closest(".card");
      if (focused) reach(shownCards().indexOf(focused), false);
    });
    at("download").addEventListener("click", download);
    at("clear").addEventListener("click", () => {
      if (confirm("Forget all decisions and notes on this run?")) {
        said = new Map();
        save();
        filter();
      }
    });
    at("shut").addEventListener("click", () => at("close-up").close());
    at("close-up").addEventListener("close", leave);
    at("note").addEventListener("input", () => say(state.closeUp, { note: at("note").value.replace(/\s+/g, " ").toWellFormed() }));
    addEventListener("keydown", pressed);
    // The same report in another window: the later decision counts in both.
    addEventListener("storage", (event) => {
      if (event.key === storeKey) {
        said = stored();
        tally();
        filter();
      }
    });
  }

  prepare();
  listen();
  tally();
  filter();
})();
