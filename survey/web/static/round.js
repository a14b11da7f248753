/* The page of the rounds. Three clips play one after the other, then the page waits for the choice
   and sends it until the server confirms that it is stored. An answer that could not be sent is kept
   in this browser and sent again; the server stores it once. */
"use strict";
(() => {
  const page = document.getElementById("round");
  const heading = document.getElementById("heading");
  const says = document.getElementById("says");
  const listen = document.getElementById("listen");
  const cantTell = document.getElementById("cant-tell");
  const undo = document.getElementById("undo");
  const undoForm = document.getElementById("undo-form");
  const undoRound = document.getElementById("undo-round");
  const keys = document.getElementById("keys");
  const auto = document.getElementById("auto");
  const cards = [...document.querySelectorAll(".clip")];
  const plays = cards.map((card) => card.querySelector(".play"));
  const seeks = cards.map((card) => card.querySelector(".seek"));
  const chooses = cards.map((card) => card.querySelector(".choose"));
  const notes = cards.map((card) => card.querySelector(".listened"));
  const texts = JSON.parse(page.dataset.texts);
  const minListened = Number(page.dataset.minListened);
  const goal = Number(page.dataset.goal);
  const canPlay = (type) => new Audio().canPlayType(type) !== "";
  const suffix = canPlay('audio/ogg; codecs="opus"') ? "ogg" : "m4a"; // of a clip that is loaded whole
  // Ogg has its length only at its end, so that Chromium loads all of a short file before it plays.
  const streamSuffix = canPlay('audio/mp4; codecs="mp4a.40.2"') ? "m4a" : suffix;
  const PENDING = "feelprint-unsent-answer"; // and, since several tabs may wait, the round's token
  const KEYS = "feelprint-keys-off";
  const AUTO = "feelprint-auto-off";
  const PRACTISED = "feelprint-practised";
  const UNDONE = "feelprint-undone";
  const NOTICE = "feelprint-notice";
  const SLOW_MS = 1500; // silence after which the page says that it is loading
  const READ_MS = 6000; // to read a notice that the browser cannot keep over a reload

  let answered = Number(page.dataset.answered);
  let last = page.dataset.last ? JSON.parse(page.dataset.last) : null; // the newest stored answer
  const first = JSON.parse(page.dataset.round);
  let round = first;
  let next = null; // the round after this one, once it is known
  let listenedS = [0, 0, 0]; // seconds, by place
  let audios = [null, null, null];
  let playing = -1;
  let sending = false;
  let practiceOver = false;
  let earliest = 0; // when the server accepts an answer to a round that came back by an undo
  let slow = 0; // a timer
  const blobs = new Map(); // address -> object URL
  const streams = new Map(); // address -> the audio that loads it by itself while it plays
  let fetching = null; // the one clip that is being loaded in advance: { address, abort }

  // Storage fails where it is switched off or full; what must be kept is then kept by the open page.
  const keep = (storage, key, value) => {
    try {
      window[storage].setItem(key, value);
      return true;
    } catch {
      return false;
    }
  };
  const kept = (storage, key) => {
    try {
      return window[storage].getItem(key);
    } catch {
      return null;
    }
  };
  const drop = (storage, key) => {
    try {
      window[storage].removeItem(key);
    } catch { /* nothing is kept there */ }
  };
  const take = (key) => {
    const value = kept("sessionStorage", key);
    drop("sessionStorage", key);
    return value === null ? null : JSON.parse(value);
  };

  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const say = (text, trouble = false) => {
    says.textContent = text;
    says.classList.toggle("trouble", trouble);
  };
  async function reloadWith(text, trouble) {
    if (!keep("sessionStorage", NOTICE, JSON.stringify({ text, trouble }))) {
      sending = true; // nothing can be chosen until the reload
      say(text, trouble);
      draw();
      await wait(READ_MS);
    }
    location.reload();
    return new Promise(() => {}); // nothing else happens on this page
  }

  // Calls `attempt` until it returns a value; the pauses grow, and end when the browser is online.
  async function untilItWorks(attempt, trouble) {
    for (let pause = 1000; ; pause = Math.min(pause * 2, 16000)) {
      try {
        const given = await attempt();
        if (given) return given;
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // TypeError: fetch found no network
      }
      trouble();
      await Promise.race([
        wait(pause),
        new Promise((resolve) => addEventListener("online", resolve, { once: true })),
      ]);
    }
  }

  // The reply with its whole body; null where a further attempt may succeed.
  async function complete(response, read) {
    if (response.status === 429 || response.status >= 500) return null;
    return { ok: response.ok, status: response.status, body: await read(response) };
  }

  const post = async (path, body) =>
    complete(
      await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF": page.dataset.csrf },
        body: JSON.stringify(body),
      }),
      (response) => response.json(),
    );

  // -- loading: one clip at a time, and none beside a clip that loads while it plays

  const wanted = () => [
    ...round.clips, ...(round.practice ? first.clips : []), ...(next ? next.clips : []),
  ];

  async function loadAhead() {
    if (fetching || [...streams.values()].some((audio) => !isWhole(audio))) return;
    const address = wanted().find((a) => !blobs.has(a) && !streams.has(a));
    if (!address) return;
    const control = new AbortController();
    fetching = { address, abort: () => control.abort() };
    try {
      const clip = await untilItWorks(
        async () => complete(
          await fetch(`${address}.${suffix}`, { signal: control.signal }),
          (response) => response.blob(),
        ),
        () => { if (round.clips.includes(address)) say(texts.gone, true); },
      );
      if (!clip.ok) throw new Error(`clip ${clip.status}`);
      blobs.set(address, URL.createObjectURL(clip.body));
      const place = round.clips.indexOf(address);
      if (place >= 0) {
        if (!audios[place]) audios[place] = makeAudio(place, blobs.get(address));
        if (playing === place) start(place);
        if (says.textContent === texts.gone) say("");
      }
    } catch (error) {
      if (error.name !== "AbortError" && round.practice) { // the rounds do not depend on it
        fetching = null;
        return endPractice(false);
      }
      if (error.name !== "AbortError" && round.clips.includes(address)) {
        say(texts.clipGone, true);
        return setTimeout(() => location.reload(), 3000);
      }
    }
    fetching = null;
    draw();
    loadAhead();
  }

  function isWhole(audio) {
    const { buffered, duration } = audio;
    return buffered.length > 0 && buffered.end(buffered.length - 1) > duration - 0.3;
  }

  function makeAudio(place, url) {
    const audio = new Audio(url);
    audio.preload = "auto";
    audio.lastS = 0; // where the counting of listened seconds stands
    const mine = () => audio === audios[place];
    const count = () => {
      const step = audio.currentTime - audio.lastS;
      audio.lastS = audio.currentTime;
      if (step > 0 && step < 2 && mine()) {
        const before = ready();
        listenedS[place] += step;
        if (!before && ready()) say(texts.canChoose);
      }
      draw();
    };
    audio.addEventListener("timeupdate", count);
    audio.addEventListener("loadedmetadata", draw);
    audio.addEventListener("playing", () => {
      clearTimeout(slow);
      if (mine() && [texts.slow, texts.gone].includes(says.textContent)) say("");
    });
    audio.addEventListener("waiting", () => { if (playing === place && mine()) expectSound(); });
    audio.addEventListener("progress", () => { if (isWhole(audio)) loadAhead(); });
    audio.addEventListener("ended", () => {
      count();
      if (!mine()) return;
      if (playing === place) playing = -1;
      audio.lastS = 0;
      audio.currentTime = 0;
      loadAhead();
      const following = unheard();
      if (isAuto() && following >= 0) play(following);
      draw();
    });
    audio.addEventListener("error", () => { // a stream that broke off is loaded whole
      const address = round.clips[place];
      if (!mine() || !streams.delete(address)) return;
      audios[place] = null;
      say(texts.gone, true);
      loadAhead();
    });
    return audio;
  }

  function forget(clips) {
    for (const address of clips) {
      if (blobs.has(address)) URL.revokeObjectURL(blobs.get(address));
      blobs.delete(address);
      streams.delete(address);
      if (fetching?.address === address) fetching.abort();
    }
  }

  function breakOffStreams() {
    for (const [address, audio] of streams) {
      if (isWhole(audio)) continue;
      streams.delete(address);
      audios = audios.map((other) => (other === audio ? null : other));
      audio.removeAttribute("src");
      audio.load();
    }
  }

  // -- playing

  const missing = () => listenedS.map((s) => Math.max(0, minListened - s));
  const ready = () => !sending && !practiceOver && Math.max(...missing()) === 0;
  const unheard = () => listenedS.findIndex((s) => s === 0 || s < minListened);
  const isAuto = () => kept("localStorage", AUTO) === null;

  function draw() {
    missing().forEach((left, place) => {
      const enough = left === 0;
      notes[place].textContent = enough ? texts.heard : listenedS[place] === 0
        ? texts.notHeard : fill(texts.more, { n: Math.ceil(left) });
      notes[place].classList.toggle("enough", enough);
      const on = place === playing;
      cards[place].classList.toggle("playing", on);
      plays[place].setAttribute("aria-label", fill(on ? texts.stopClip : texts.playClip, { n: place + 1 }));
      const audio = audios[place];
      const all = audio && Number.isFinite(audio.duration) ? audio.duration : 0;
      const now = audio ? audio.currentTime : 0;
      cards[place].style.setProperty("--done", (all ? now / all : 0).toFixed(4));
      seeks[place].disabled = all === 0;
      if (all) seeks[place].max = all.toFixed(1);
      seeks[place].value = now;
      seeks[place].setAttribute(
        "aria-valuetext", fill(texts.position, { now: Math.round(now), all: Math.round(all) }),
      );
      chooses[place].setAttribute("aria-disabled", String(!ready()));
    });
    cantTell.setAttribute("aria-disabled", String(!ready()));
    listen.textContent = practiceOver ? texts.first : playing >= 0 ? texts.stop
      : Math.max(...listenedS) > 0 ? texts.go_on : texts.play;
    heading.textContent = round.practice ? texts.practiceHeading : texts.heading;
    document.getElementById("check").hidden = !round.practice;
    const inSet = answered % goal;
    document.getElementById("progress").value = inSet;
    document.getElementById("progress-text").textContent = round.practice ? texts.practice
      : fill(texts.answered, { n: answered, goal: answered - inSet + goal });
    undoForm.hidden = Boolean(round.practice);
    undoRound.value = last ? last.round : "";
    undo.disabled = sending || !last;
  }

  function expectSound() {
    clearTimeout(slow);
    slow = setTimeout(() => { if (playing >= 0) say(texts.slow, true); }, SLOW_MS);
  }

  function stop() {
    clearTimeout(slow);
    if (playing < 0) return;
    const place = playing;
    playing = -1;
    audios[place]?.pause();
    draw();
  }

  function start(place) {
    const audio = audios[place];
    expectSound();
    audio.play().catch((error) => {
      if (audio !== audios[place] || playing !== place || error.name === "AbortError") return;
      if (!streams.has(round.clips[place]) || error.name === "NotAllowedError") {
        stop();
        say(texts.notPlayed, true);
      } // a stream that failed is loaded whole, and then plays
    });
  }

  function play(place) {
    if (playing === place) return stop();
    if (sending || practiceOver) return;
    stop();
    playing = place;
    if (!audios[place]) { // not loaded yet: it plays while it loads, and has the connection to itself
      const address = round.clips[place];
      fetching?.abort();
      breakOffStreams();
      audios[place] = makeAudio(place, `${address}.${streamSuffix}`);
      streams.set(address, audios[place]);
    }
    start(place);
    draw();
  }

  function playNext() {
    if (practiceOver) endPractice(true);
    else if (playing >= 0) stop();
    else play(Math.max(0, unheard()));
  }

  function seek(place) {
    const audio = audios[place];
    if (!audio) return;
    audio.lastS = Number(seeks[place].value);
    audio.currentTime = audio.lastS;
    draw();
  }

  // -- rounds

  function show(shown) {
    stop();
    round = shown;
    listenedS = [0, 0, 0];
    earliest = 0;
    audios = shown.clips.map((address, place) =>
      blobs.has(address) ? makeAudio(place, blobs.get(address)) : null);
    cards.forEach((card) => card.classList.remove("chosen", "was-chosen"));
    draw();
    loadAhead();
  }

  async function lookAhead(trouble = () => {}) {
    const found = await untilItWorks(() => post("/api/rounds", {}), trouble);
    if (!found.ok) return null;
    const { rounds } = found.body;
    next = rounds.find((r) => r.token !== round.token) ?? null;
    loadAhead();
    return rounds;
  }

  // The server's reply to an answer, which is kept in the browser until there is one.
  async function deliver(pending, key) {
    await wait(earliest - Date.now());
    const isKept = kept("localStorage", key) !== null;
    const reply = await untilItWorks(
      () => post("/api/answer", pending),
      () => say(isKept ? texts.noConnection : texts.keepOpen, true),
    );
    // Signed out, or a page of an older session: the answer is sent after the reload.
    if (reply.status === 401 || reply.status === 403) {
      location.reload();
      return new Promise(() => {});
    }
    drop("localStorage", key);
    return reply;
  }

  async function send(pending, key) {
    sending = true;
    say(texts.storing);
    draw();
    const reply = await deliver(pending, key);
    sending = false;
    if (reply.status === 422) {
      cards.forEach((card) => card.classList.remove("chosen"));
      draw();
      return say(texts.briefly, true);
    }
    if (!reply.ok) return reloadWith(texts.refused, true);
    const stored = reply.body;
    answered = stored.answered;
    last = pending;
    if (answered % goal === 0) return location.assign(`/sets/${answered / goal}`);
    const old = round;
    let current = stored.current;
    if (!current) { // where the survey was paused meanwhile, the server's page says so
      say(fill(texts.stored, { n: answered }));
      current = (await lookAhead(() => { if (navigator.onLine) location.reload(); }))?.[0] ?? null;
    }
    if (!current) return location.reload(); // no round is left: the server shows the page for that
    if (next && next.token === current.token) current = next;
    next = null;
    show(current);
    if (old.token !== current.token) forget(old.clips);
    say(fill(texts.stored, { n: answered }));
    heading.focus({ preventScroll: true });
    if (isAuto()) play(0);
    await lookAhead();
  }

  function choose(place) {
    if (sending || practiceOver) return;
    if (!ready()) {
      const left = missing().findIndex((s) => s > 0);
      return say(fill(texts.listenFirst, { n: left + 1, s: Math.ceil(missing()[left]) }));
    }
    stop();
    cards.forEach((card) => card.classList.remove("was-chosen"));
    if (place !== null) cards[place].classList.add("chosen");
    if (round.practice) {
      say(place === round.odd ? texts.right : fill(texts.wrong, { n: round.odd + 1 }));
      practiceOver = true;
      draw();
      return listen.focus();
    }
    const pending = { round: round.token, place, listened_s: listenedS.map((s) => Number(s.toFixed(2))) };
    const key = `${PENDING} ${pending.round}`;
    keep("localStorage", key, JSON.stringify(pending));
    send(pending, key);
  }

  async function endPractice(byPress) {
    practiceOver = false;
    keep("localStorage", PRACTISED, "1");
    const old = round;
    say("");
    show(first);
    forget(old.clips);
    heading.focus({ preventScroll: true });
    if (byPress && isAuto()) play(0); // a browser plays nothing before the first press
    await lookAhead(); // from here on the server counts the round as shown
  }

  // What an undo brings back: the choice is shown, and what was listened to stays so.
  function restore(undone) {
    listenedS = undone.listened_s;
    earliest = Date.now() + 3000 * minListened + 200; // the server counts anew since it showed it
    if (undone.place !== null) cards[undone.place].classList.add("was-chosen");
    say(undone.place === null ? texts.undoneCantTell : fill(texts.undone, { n: undone.place + 1 }));
    draw();
  }

  listen.addEventListener("click", playNext);
  plays.forEach((button, place) => button.addEventListener("click", () => play(place)));
  seeks.forEach((bar, place) => bar.addEventListener("input", () => seek(place)));
  chooses.forEach((button, place) => button.addEventListener("click", () => choose(place)));
  cantTell.addEventListener("click", () => choose(null));
  undoForm.addEventListener("submit", () => {
    drop("localStorage", `${PENDING} ${last.round}`);
    keep("sessionStorage", UNDONE, JSON.stringify({ ...last, answered: answered - 1 }));
  });

  function makeSwitch(button, key, on, off, changed) {
    const drawIt = () => {
      const isOn = kept("localStorage", key) === null;
      button.textContent = isOn ? on : off;
      button.setAttribute("aria-pressed", String(isOn));
      changed(isOn);
    };
    button.addEventListener("click", () => {
      if (kept("localStorage", key) === null) keep("localStorage", key, "1");
      else drop("localStorage", key);
      drawIt();
    });
    drawIt();
  }
  makeSwitch(auto, AUTO, texts.autoOn, texts.autoOff, () => {});
  makeSwitch(keys, KEYS, texts.keysOn, texts.keysOff, (on) => {
    document.getElementById("keys-help").hidden = !on;
  });

  let swallow = false; // the keyup of a space that was a command must not press a button
  document.addEventListener("keydown", (event) => {
    if (kept("localStorage", KEYS) !== null) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase();
    const onButton = event.target.closest("button, a, summary, input:not(.seek)");
    if (key === " ") {
      if (onButton && (playing < 0 || !onButton.classList.contains("play"))) return;
      playNext();
      swallow = true;
    } else if ("123".includes(key)) play(Number(key) - 1);
    else if ("qwe".includes(key)) choose("qwe".indexOf(key));
    else if (key === "r") choose(null);
    else if (key === "u" && !undo.disabled && !undoForm.hidden) undoForm.requestSubmit();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && swallow) {
      swallow = false;
      event.preventDefault();
    }
  });

  // The answers that an earlier visit, or another tab, could not send.
  function unsent() {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(PENDING));
    } catch {
      return [];
    }
  }

  async function sendUnsent(waiting) {
    say(texts.fromLastTime);
    let notice = null;
    for (const key of waiting) {
      const pending = JSON.parse(kept("localStorage", key));
      if (!pending) continue; // another tab has sent it meanwhile
      if (pending.heard_s) { // kept by an earlier version of this page
        pending.listened_s = pending.heard_s;
        delete pending.heard_s;
      }
      const reply = await deliver(pending, key);
      if (reply.ok) answered = reply.body.answered;
      const refused = reply.status === 422 ? texts.briefly : texts.refused;
      if (!reply.ok) notice = { text: refused, trouble: true };
      else notice ??= { text: fill(texts.stored, { n: answered }), trouble: false };
    }
    if (!notice) return location.reload();
    await reloadWith(notice.text, notice.trouble);
  }

  async function begin() {
    draw();
    const waiting = unsent();
    if (waiting.length > 0) return sendUnsent(waiting);
    const notice = take(NOTICE);
    const undone = take(UNDONE);
    const practice = page.dataset.practice ? JSON.parse(page.dataset.practice) : null;
    if (practice && !undone && kept("localStorage", PRACTISED) === null) {
      return show({ ...practice, practice: true });
    }
    show(first);
    if (notice) say(notice.text, notice.trouble);
    await lookAhead();
    if (undone && undone.answered === answered) restore(undone);
  }
  begin();
})();
