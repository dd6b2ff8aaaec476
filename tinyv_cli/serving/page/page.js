"use strict";

// The page's one script: a picture and a question go to the server, the answer comes back as it is
// made. Whatever a model says is put in as text, never as HTML.

const at = (id) => document.getElementById(id);
const stage = at("stage"), frame = at("frame"), picture = at("picture"), drawn = at("drawn");
const words = at("words"), statusLine = at("status"), answers = at("answers"), strip = at("strip");

const TASKS = {
  ask: { button: "Ask", hint: "What is this?" },
  caption: { button: "Caption", own: "please describe this image", hint: "Just press Caption" },
  grounding: { button: "Describe", own: "describe this image in detail", hint: "Just press Describe" },
  refer: { button: "Find", hint: "the red car" },
  identify: { button: "Name it", own: "what is this", hint: "what is this?" },
  detection: { button: "Find all", hint: "apples" },
};
const STEPS = {
  queued: (place) => place === "1" ? "Next in the queue…" : `Waiting: number ${place} in the queue…`,
  loading: () => "Loading the model…",
  looking: () => "Looking at the picture…",
  reading: () => "Reading the question…",
};
const MAX_BYTES = 22 * 1024 * 1024;

let task = "ask";
let address = null; // the picture's data: address
let place = null; // the box that was drawn, 0 to 1: [x1, y1, x2, y2]
let shown = 0; // pictures, since the page was opened
let turns = []; // what was asked and answered, about whichever picture
let going = null; // the AbortController of the answer under way

// --- the picture ---------------------------------------------------------------------------------

async function show(files) {
  stop();
  tell("");
  for (const file of files) {
    if (file.size > MAX_BYTES) { tell("The picture is larger than 22 MB."); continue; }
    const reader = new FileReader();
    const read = new Promise((resolve) => { reader.onloadend = () => resolve(reader.result); });
    reader.readAsDataURL(file);
    const url = await read;
    if (url) await look(url);
    else tell("The picture could not be read.");
  }
  words.focus();
}

// Puts a picture on the stage, where the browser can show it; those shown before stay at hand.
async function look(url) {
  try {
    await Object.assign(new Image(), { src: url }).decode();
  } catch { return tell("The browser cannot show this file as a picture."); }
  address = picture.src = url;
  await picture.decode();
  mark(null);
  drawBoxes([]);
  if (![...strip.children].some((each) => each.url === url)) {
    const thumb = make("button", "thumb");
    Object.assign(thumb, { type: "button", url, onclick: () => look(url) });
    thumb.setAttribute("aria-label", `Picture ${++shown}`);
    thumb.append(Object.assign(new Image(), { src: url, alt: "" }));
    strip.append(thumb);
  }
  for (const each of strip.children) each.setAttribute("aria-pressed", String(each.url === url));
  strip.hidden = strip.children.length < 2;
  at("empty").hidden = true;
  frame.hidden = at("tools").hidden = false;
  fit();
}

// As large as there is room for, but small pictures at most three times as large as they are.
function fit() {
  if (!picture.naturalWidth) return;
  const style = getComputedStyle(stage);
  const width = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const isWide = matchMedia("(min-width: 60rem)").matches;
  const height = isWide ? stage.clientHeight - 2 * parseFloat(style.paddingTop) : innerHeight * 0.38;
  const scale = Math.min(width / picture.naturalWidth, height / picture.naturalHeight, 3);
  picture.style.width = `${Math.round(picture.naturalWidth * scale)}px`;
  picture.style.height = `${Math.round(picture.naturalHeight * scale)}px`;
}
new ResizeObserver(fit).observe(stage);

at("choose").onclick = at("other").onclick = () => at("file").click();
at("file").onchange = async () => { await show([...at("file").files]); at("file").value = ""; };

addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((each) => each.type.startsWith("image/"));
  if (files.length) { event.preventDefault(); show(files); }
});
addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) stage.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  const files = [...(event.dataTransfer?.files ?? [])];
  if (files.length) show(files);
  else tell("Only files can be dropped here.");
});

const EXAMPLES = [ // pictures that come along, each with a task and words to try
  ["cat", "ask", "what is this?"], ["three-apples", "ask", "how many apples are there?"],
  ["car-and-tree", "refer", "the red car"], ["breakfast", "grounding", ""],
];
for (const [name, task, text] of EXAMPLES) {
  const button = make("button", "thumb"), image = Object.assign(new Image(), { alt: name.replaceAll("-", " ") });
  image.onload = () => { at("examples").hidden = false; };
  image.onerror = () => button.remove();
  image.src = `examples/${name}.png`;
  button.type = "button";
  button.onclick = async () => {
    await show([await (await fetch(image.src)).blob()]);
    choose(task);
    words.value = text;
    grow();
  };
  button.append(image);
  at("examples").lastElementChild.append(button);
}

// --- the camera ----------------------------------------------------------------------------------

const viewfinder = at("viewfinder"), video = at("video");
at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
at("camera").onclick = async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    viewfinder.showModal();
  } catch {
    tell("The camera cannot be used: allow it in the browser, over https or on this computer.");
  }
};
at("camera-close").onclick = () => viewfinder.close();
viewfinder.onclose = () => { video.srcObject?.getTracks().forEach((each) => each.stop()); video.srcObject = null; };
at("shoot").onclick = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  viewfinder.close();
  canvas.toBlob((blob) => show([blob]), "image/png");
};

// --- a box that somebody draws ---------------------------------------------------------------------

const clamp = (value) => Math.min(1, Math.max(0, value));

function mark(box) {
  place = box;
  drawn.hidden = box === null;
  at("box").textContent = box === null ? "Mark a place" : "Unmark";
  if (box === null) { if (task === "identify") choose("ask"); return; }
  const [x1, y1, x2, y2] = box;
  Object.assign(drawn.style, {
    left: `${100 * x1}%`, top: `${100 * y1}%`, width: `${100 * (x2 - x1)}%`, height: `${100 * (y2 - y1)}%`,
  });
  if (task !== "identify") choose("identify");
}

function toPlace(event) {
  const edges = picture.getBoundingClientRect();
  return [clamp((event.clientX - edges.left) / edges.width), clamp((event.clientY - edges.top) / edges.height)];
}

let start = null, held = null; // where a drag began; the box and the point of one that is moved
frame.onpointerdown = (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  if (event.target === drawn) { held = [place, toPlace(event)]; drawn.focus(); } else start = toPlace(event);
};
frame.onpointermove = (event) => {
  const [x, y] = toPlace(event);
  if (held) {
    const [[x1, y1, x2, y2], [fromX, fromY]] = held;
    const dx = Math.min(1 - x2, Math.max(-x1, x - fromX)), dy = Math.min(1 - y2, Math.max(-y1, y - fromY));
    mark([x1 + dx, y1 + dy, x2 + dx, y2 + dy]);
  } else if (start) {
    const box = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
    if (box[2] - box[0] > 0.01 && box[3] - box[1] > 0.01) { drawBoxes([]); mark(box); }
  }
};
frame.onpointerup = frame.onpointercancel = () => {
  if (start && place) { drawn.focus(); }
  start = held = null;
};
drawn.onkeydown = (event) => {
  if (event.key === "Delete" || event.key === "Backspace") { mark(null); words.focus(); return; }
  const move = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] }[event.key];
  if (!move) return;
  event.preventDefault();
  let [x1, y1, x2, y2] = place;
  if (!event.shiftKey) {
    const dx = Math.min(1 - x2, Math.max(-x1, move[0])), dy = Math.min(1 - y2, Math.max(-y1, move[1]));
    [x1, y1, x2, y2] = [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  } else {
    [x2, y2] = [clamp(Math.max(x1 + 0.03, x2 + move[0])), clamp(Math.max(y1 + 0.03, y2 + move[1]))];
  }
  mark([x1, y1, x2, y2]);
};
at("box").onclick = () => {
  if (place) return mark(null);
  drawBoxes([]);
  mark([0.3, 0.3, 0.7, 0.7]);
  drawn.focus();
};

function writeBox([x1, y1, x2, y2]) {
  const apart = (low, high) => {
    const first = Math.min(Math.round(100 * low), 99);
    return [first, Math.max(Math.round(100 * high), first + 1)];
  };
  const [a, c] = apart(x1, x2), [b, d] = apart(y1, y2);
  return `{<${a}><${b}><${c}><${d}>}`;
}

// --- boxes in an answer ------------------------------------------------------------------------------

const MARKS = /<p>\s*([^<{]*)(<\/p>)?|\{?\s*<\s*(-?\d+)\s*>\s*<\s*(-?\d+)\s*>\s*<\s*(-?\d+)\s*>\s*<\s*(-?\d+)\s*>\s*\}?|<delim>/g;
const UNFINISHED = /(?:\{[^}]*|<[^>]*)$/;

// Splits an answer into texts and phrases, each phrase with the boxes that belong to it.
function read(text, isWhole, name) {
  if (!isWhole) text = text.replace(UNFINISHED, "");
  const parts = [];
  let end = 0, phrase = null, last = null;
  for (const found of text.matchAll(MARKS)) {
    const between = text.slice(end, found.index);
    end = found.index + found[0].length;
    if (between.trim()) phrase = last = null;
    if (between && (between.trim() || !phrase)) parts.push(between);
    if (found[1] !== undefined) {
      phrase = { label: found[1].trim(), boxes: [] };
      parts.push(phrase);
      last = null;
    } else if (found[3] !== undefined) {
      const numbers = found.slice(3, 7).map((each) => Math.min(100, Math.max(0, +each)) / 100);
      const [x1, y1, x2, y2] = numbers;
      const box = [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
      if (!phrase) { phrase = { label: name, boxes: [] }; parts.push(phrase); }
      phrase.boxes.push(box);
      last = phrase;
    }
  }
  if (text.slice(end)) parts.push(text.slice(end));
  return parts;
}

function write(target, parts, url) {
  target.textContent = "";
  let tone = 0;
  for (const each of parts) {
    if (typeof each === "string") { target.append(each); continue; }
    if (!each.boxes.length) { target.append(each.label); continue; }
    each.tone = tone++ % 6;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "phrase";
    button.style.setProperty("--tone", `var(--c${each.tone})`);
    button.textContent = each.boxes.length > 1 ? `${each.label || "here"} (${each.boxes.length})` : each.label || "here";
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => light(button, each, parts, url);
    target.append(button);
  }
}

function drawBoxes(parts) {
  const layer = at("boxes");
  layer.textContent = "";
  layer.classList.remove("lit");
  for (const each of parts) {
    for (const [x1, y1, x2, y2] of each.boxes ?? []) {
      const box = document.createElement("div");
      box.className = "found";
      box.classList.toggle("low", y1 < 0.08);
      box.classList.toggle("left", x1 > 0.75);
      box.style.setProperty("--tone", `var(--c${each.tone ?? 0})`);
      Object.assign(box.style, {
        left: `${100 * x1}%`, top: `${100 * y1}%`, width: `${100 * (x2 - x1)}%`, height: `${100 * (y2 - y1)}%`,
      });
      if (each.label) box.append(Object.assign(document.createElement("span"), { textContent: each.label }));
      box.phrase = each;
      layer.append(box);
    }
  }
}

async function light(button, phrase, parts, url) {
  const isOn = button.getAttribute("aria-pressed") === "true" && (!url || url === address);
  if (url && url !== address) await look(url);
  for (const each of document.querySelectorAll(".phrase")) each.setAttribute("aria-pressed", "false");
  mark(null);
  drawBoxes(parts);
  stage.scrollIntoView({ block: "nearest" });
  if (isOn) return;
  button.setAttribute("aria-pressed", "true");
  at("boxes").classList.add("lit");
  for (const each of at("boxes").children) each.classList.toggle("on", each.phrase === phrase);
}

at("save").onclick = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  const pen = canvas.getContext("2d"), unit = Math.max(canvas.width, canvas.height) / 400;
  pen.drawImage(picture, 0, 0);
  pen.font = `600 ${9 * unit}px system-ui, sans-serif`;
  for (const each of at("boxes").children) {
    const [x, y, width, height] = ["left", "top", "width", "height"].map((name, i) =>
      parseFloat(each.style[name]) / 100 * (i % 2 ? canvas.height : canvas.width));
    pen.strokeStyle = pen.fillStyle = getComputedStyle(each).borderTopColor;
    pen.lineWidth = 1.5 * unit;
    pen.strokeRect(x, y, width, height);
    const label = each.textContent;
    if (!label) continue;
    const top = Math.max(0, y - 12 * unit);
    pen.fillRect(x, top, pen.measureText(label).width + 6 * unit, 12 * unit);
    pen.fillStyle = "#fff";
    pen.fillText(label, x + 3 * unit, top + 9 * unit);
  }
  canvas.toBlob((blob) => download(blob, "picture.png"));
};

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

at("download").onclick = () => {
  const pictures = [...new Set(turns.map((each) => each.picture).filter(Boolean))];
  const told = turns.map(({ task, shown, sent, said, reason, name, model, picture }) => ({
    task, question: shown, prompt: sent, answer: said, finish_reason: reason, model,
    phrases: read(said, true, name).filter((each) => each.boxes?.length),
    picture: picture ? pictures.indexOf(picture) : null,
  }));
  const all = JSON.stringify({ saved: new Date().toISOString(), turns: told, pictures }, null, 1);
  download(new Blob([all], { type: "application/json" }), "answers.json");
};

// --- questions ---------------------------------------------------------------------------------------

function choose(name) {
  task = name;
  for (const each of at("tasks").children) each.setAttribute("aria-pressed", String(each.dataset.task === name));
  at("tasks").querySelector("[aria-pressed=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
  at("send").textContent = TASKS[name].button;
  words.placeholder = TASKS[name].hint;
}
at("tasks").onclick = (event) => {
  const name = event.target.dataset?.task;
  if (!name) return;
  choose(name);
  if (name === "identify" && !place && address) return at("box").click();
  words.focus();
  if (TASKS[name].own && address && !words.value.trim()) ask();
};

function compose() {
  const own = words.value.trim() || TASKS[task].own;
  if (!own) { tell("Type a question first."); return null; }
  if (task === "ask") return { shown: own, sent: own, name: "here" };
  if (task === "identify") {
    if (!place) { tell("Mark a place on the picture first."); return null; }
    return { shown: own, sent: `[identify] ${own} ${writeBox(place)}`, name: "here" };
  }
  const isNamed = task === "refer" || task === "detection";
  return { shown: own, sent: `[${task}] ${own}`, name: isNamed ? own : "here" };
}

function make(tag, name, text) {
  return Object.assign(document.createElement(tag), { className: name, textContent: text ?? "" });
}

function ask(again) {
  if (going) return;
  const asked = again ?? compose();
  if (!asked) return;
  asked.task ??= task;
  asked.picture ??= address;
  asked.model = at("model").value;
  if (!again) { words.value = ""; grow(); }
  hear(asked, begin(asked));
}

function begin(asked) {
  const turn = make("div", "turn"), question = make("p", "question"), card = make("div", "answer going");
  if (asked.task !== "ask") question.append(make("small", "", label(asked.task)));
  question.append(asked.shown);
  const text = make("p", ""), acts = make("div", "acts");
  card.append(text, acts);
  turn.append(question, card);
  at("nothing").hidden = at("earlier").hidden = true;
  answers.append(turn);
  turn.scrollIntoView({ block: "end" });
  return { card, text, acts };
}

const label = (name) => document.querySelector(`[data-task="${name}"]`).textContent.replace("…", "");

async function hear(asked, { card, text, acts }) {
  const control = going = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  answers.setAttribute("aria-busy", "true");
  tell("Asking…");
  if (asked.picture === address) drawBoxes([]);
  let said = "", reason = null;
  const began = performance.now();
  const render = (isWhole) => {
    const parts = read(said, isWhole, asked.name);
    write(text, parts, asked.picture);
    if (asked.picture === address && parts.some((each) => each.boxes?.length)) drawBoxes(parts);
    return parts;
  };
  try {
    for await (const each of stream(asked, control.signal)) {
      if (each.step) { tell(STEPS[each.step]?.(each.place) ?? ""); continue; }
      if (each.error) throw new Error(each.error);
      if (each.text) {
        said += each.text;
        tell("");
        const isAtEnd = answers.scrollHeight - answers.scrollTop - answers.clientHeight < 120;
        render(false);
        if (isAtEnd) answers.scrollTop = answers.scrollHeight;
      }
      reason = each.reason ?? reason;
    }
    if (!reason) throw new Error("The server ended the answer too early.");
    tell("");
  } catch (error) {
    if (error.name === "AbortError") { reason = "stopped"; tell("Stopped."); } else { fail(card, error); tell(""); }
  }
  const parts = render(true);
  if (parts.some((each) => each.boxes?.length) && asked.task === "identify") mark(null);
  if (card.classList.contains("bad")) text.append(said ? "\n" : "", card.dataset.problem);
  else if (!said && reason !== "stopped") text.textContent = "(nothing)";
  if (reason && !card.classList.contains("bad")) {
    keep(remember({ ...asked, said, reason }));
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  finish(asked, said, acts, reason === "length" ? `cut at its longest · ${seconds} s` : reason === "stopped" ? "stopped" : `${seconds} s`);
  card.classList.remove("going");
  answers.setAttribute("aria-busy", "false");
  if (going === control) {
    going = null;
    at("send").hidden = false;
    at("stop").hidden = true;
    words.focus();
  }
  card.parentElement.scrollIntoView({ block: "end" });
}

function remember(turn) {
  turns.push(turn);
  at("download").hidden = false;
  return turn;
}

function finish(asked, said, acts, note) {
  const again = make("button", "quiet", "Ask again"), copy = make("button", "quiet", "Copy");
  again.type = copy.type = "button";
  again.onclick = () => ask(asked);
  copy.onclick = async () => {
    try { await navigator.clipboard.writeText(said); copy.textContent = "Copied"; } catch { copy.textContent = "Cannot copy"; }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  };
  acts.append(again, ...(said ? [copy] : []), make("span", "", note));
}

function fail(card, error) {
  card.classList.add("bad");
  card.setAttribute("role", "alert");
  card.dataset.problem = error.message;
}

function toHeaders() {
  const key = at("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function* stream(asked, signal) {
  const messages = [];
  const before = at("follow").checked ? turns.filter((each) => each.picture === asked.picture) : [];
  for (const each of [...before, asked]) {
    const content = [{ type: "text", text: each.sent }];
    if (!messages.length && asked.picture) content.unshift({ type: "image_url", image_url: { url: asked.picture } });
    messages.push({ role: "user", content });
    if (each.said !== undefined) messages.push({ role: "assistant", content: each.said });
  }
  const body = {
    model: asked.model || undefined, messages, stream: true,
    max_tokens: Math.max(1, +at("length").value || 256), temperature: Math.max(0, +at("warmth").value || 0),
  };
  let response;
  try {
    response = await fetch("v1/chat/completions", {
      method: "POST", signal, body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "Tinyv-Steps": "1", ...toHeaders() },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) {
    if (response.status === 401) openSettings();
    const document = await response.json().catch(() => null);
    throw new Error(document?.error?.message ?? `The server answered ${response.status}.`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith(": ")) {
        const [step, place] = block.slice(2).split(" ");
        yield { step, place };
      } else if (block.startsWith("data: ") && block !== "data: [DONE]") {
        const event = JSON.parse(block.slice(6));
        const choice = event.choices?.[0];
        yield { error: event.error?.message, text: choice?.delta?.content, reason: choice?.finish_reason };
      }
    }
  }
}

function stop() { going?.abort(); }

function tell(text) { statusLine.textContent = text; }

function renew() {
  stop();
  turns = [];
  for (const each of [...strip.children]) if (each.url !== address) each.remove();
  strip.hidden = at("download").hidden = true;
  for (const each of answers.querySelectorAll(".turn")) each.remove();
  at("nothing").hidden = false;
  listEarlier();
  mark(null);
  drawBoxes([]);
  choose("ask");
  tell("");
  words.value = "";
  grow();
  words.focus();
}

function grow() {
  words.style.height = "auto";
  words.style.height = `${words.scrollHeight + 2}px`;
}

// --- what was asked earlier: in this browser alone, and only where that is switched on -------------------

const MOST_KEPT = 20; // pictures are kept as they are

async function useKept(mode, use) {
  const database = await new Promise((resolve, reject) => {
    const opening = indexedDB.open("tinyv", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("asked", { autoIncrement: true });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction("asked", mode), request = use(transaction.objectStore("asked"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally { database.close(); }
}

async function keep(turn) {
  if (!at("keep").checked || !turn.picture) return;
  try {
    await useKept("readwrite", (all) => all.add(turn));
    const numbers = await useKept("readonly", (all) => all.getAllKeys());
    const oldest = numbers[numbers.length - MOST_KEPT - 1];
    if (oldest) await useKept("readwrite", (all) => all.delete(IDBKeyRange.upperBound(oldest)));
  } catch { tell("This browser cannot keep the question."); }
}

async function listEarlier() {
  const kept = at("keep").checked ? await useKept("readonly", (all) => all.getAll()).catch(() => []) : [];
  at("earlier").replaceChildren(...kept.reverse().map((turn) => {
    const item = make("li", ""), button = make("button", "quiet"), both = make("span", "");
    button.type = "button";
    const said = read(turn.said, true, turn.name).map((each) => each.label ?? each).join("");
    both.append(make("b", "", turn.shown), make("small", "", said));
    button.append(Object.assign(new Image(), { src: turn.picture, alt: "" }), both);
    button.onclick = async () => { await look(turn.picture); recall(turn); };
    item.append(button);
    return item;
  }));
  at("earlier").hidden = !kept.length || answers.querySelector(".turn") !== null;
}

function recall({ said, reason, ...asked }) {
  const { card, text, acts } = begin(asked), parts = read(said, true, asked.name);
  write(text, parts, asked.picture);
  drawBoxes(parts);
  card.classList.remove("going");
  remember({ ...asked, said, reason });
  finish(asked, said, acts, "earlier");
}

at("keep").onchange = () => { localStorage.setItem("keep", at("keep").checked ? "1" : ""); listEarlier(); };
at("forget").onclick = async () => {
  await useKept("readwrite", (all) => all.clear()).catch(() => {});
  at("forget").textContent = "Forgotten";
  setTimeout(() => { at("forget").textContent = "Forget what was kept"; }, 1500);
  listEarlier();
};

// --- keys, settings, models ----------------------------------------------------------------------------

at("form").onsubmit = (event) => { event.preventDefault(); ask(); };
at("stop").onclick = stop;
at("fresh").onclick = renew;
words.oninput = grow;
words.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && going && !document.querySelector("dialog[open]")) { event.preventDefault(); stop(); }
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); renew(); }
});

function openSettings() { if (!at("options").open) at("options").showModal(); }
at("settings").onclick = openSettings;
at("options").onclose = () => { sessionStorage.setItem("key", at("key").value.trim()); listModels(); words.focus(); };

async function listModels() {
  try {
    const response = await fetch("v1/models", { headers: toHeaders() });
    if (response.status === 401) { tell("This server asks for a key."); return openSettings(); }
    const { data } = await response.json();
    const chosen = at("model").value;
    at("model").replaceChildren(...data.map((each) => new Option(each.id, each.id, false, each.id === chosen)));
    at("model").parentElement.hidden = data.length === 0;
    if (statusLine.textContent === "This server asks for a key.") tell("");
  } catch {
    tell("The server cannot be reached. Is it still running?");
  }
}

at("key").value = sessionStorage.getItem("key") ?? "";
at("keep").checked = Boolean(localStorage.getItem("keep"));
listEarlier();
listModels();
choose("ask");
