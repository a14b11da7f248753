/* The page of the rounds: loads three clips, plays one at a time, and sends the answer until the
   server confirms that it is stored. An answer that could not be sent is kept in this browser and
   sent again; the server stores it once. */
"use strict";
(() => {
  const page = document.getElementById("round");
  const heading = document.getElementById("heading");
  const says = document.getElementById("says");
  const cantTell = document.getElementById("cant-tell");
  const undo = document.getElementById("undo");
  const undoRound = document.getElementById("undo-round");
  const keys = document.getElementById("keys");
  const cards = [...document.querySelectorAll(".clip")];
  const plays = cards.map((card) => card.querySelector(".play"));
  const chooses = cards.map((card) => card.querySelector(".choose"));
  const notes = cards.map((card) => card.querySelector(".listened"));
  const minListened = Number(page.dataset.minListened);
  const goal = Number(page.dataset.goal);
  const suffix = new Audio().canPlayType('audio/ogg; codecs="opus"') ? "ogg" : "m4a";
  const PENDING = "feelprint-unsent-answer";
  const KEYS = "feelprint-keys-off";

  let answered = Number(page.dataset.answered);
  let round = JSON.parse(page.dataset.round);
  let next = null; // the round after this one, once it is known
  let listenedS = [0, 0, 0]; // seconds, by place
  let audios = [null, null, null];
  let playing = -1;
  let sending = false;
  const clips = new Map(); // address -> promise of an object URL

  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const say = (text, trouble = false) => {
    says.textContent = text;
    says.classList.toggle("trouble", trouble);
  };

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

  function load(address) {
    if (!clips.has(address)) {
      const loading = untilItWorks(
        async () => complete(await fetch(`${address}.${suffix}`), (response) => response.blob()),
        () => say("The connection is slow or gone. Still trying to load the music.", true),
      ).then((clip) => {
        if (!clip.ok) throw new Error(`clip ${clip.status}`);
        return URL.createObjectURL(clip.body);
      });
      clips.set(address, loading);
    }
    return clips.get(address);
  }

  const missing = () => listenedS.map((s) => Math.max(0, minListened - s));
  const ready = () => !sending && Math.max(...missing()) === 0;

  function draw() {
    missing().forEach((left, place) => {
      const enough = left === 0;
      const loaded = audios[place] !== null;
      notes[place].textContent = !loaded ? "loading" : enough ? "heard" : listenedS[place] === 0
        ? "not heard yet" : `${Math.ceil(left)} s more`;
      notes[place].classList.toggle("enough", loaded && enough);
      plays[place].disabled = !loaded;
      const on = place === playing;
      cards[place].classList.toggle("playing", on);
      plays[place].setAttribute("aria-label", `${on ? "Stop" : "Play"} clip ${place + 1}`);
      const audio = audios[place];
      const done = audio && audio.duration ? audio.currentTime / audio.duration : 0;
      cards[place].style.setProperty("--done", done.toFixed(4));
      chooses[place].setAttribute("aria-disabled", String(!ready()));
    });
    cantTell.setAttribute("aria-disabled", String(!ready()));
    const inGoal = answered % goal;
    const bar = document.getElementById("progress");
    bar.value = answered > 0 && inGoal === 0 ? goal : inGoal;
    const target = answered > 0 && inGoal === 0 ? answered : answered - inGoal + goal;
    document.getElementById("progress-text").textContent = `${answered} of ${target} answered`;
    undo.disabled = sending || undoRound.value === "";
  }

  function stop() {
    if (playing < 0) return;
    const place = playing;
    playing = -1;
    audios[place].pause();
    draw();
  }

  function play(place) {
    if (playing === place) return stop();
    if (!audios[place] || sending) return;
    stop();
    playing = place;
    audios[place].play().catch(() => {
      if (playing === place) playing = -1;
      say("The browser did not play this clip. Press play once more.", true);
      draw();
    });
    draw();
  }

  function makeAudio(url, place) {
    const audio = new Audio(url);
    let last = 0;
    audio.addEventListener("play", () => { last = audio.currentTime; });
    const count = () => {
      const step = audio.currentTime - last;
      last = audio.currentTime;
      if (step > 0 && step < 2 && audio === audios[place]) {
        const before = ready();
        listenedS[place] += step;
        if (!before && ready()) say("You can choose now.");
      }
      draw();
    };
    audio.addEventListener("timeupdate", count);
    audio.addEventListener("ended", () => {
      count();
      if (playing === place) playing = -1;
      audio.currentTime = 0;
      draw();
    });
    return audio;
  }

  async function show(shown) {
    round = shown;
    listenedS = [0, 0, 0];
    audios = [null, null, null];
    playing = -1;
    cards.forEach((card) => card.classList.remove("chosen"));
    draw();
    await Promise.all(shown.clips.map(async (address, place) => {
      try {
        const url = await load(address);
        if (round !== shown) return;
        audios[place] = makeAudio(url, place);
        if (says.classList.contains("trouble") && !audios.includes(null)) say("");
      } catch {
        say("This clip is gone. Loading another round.", true);
        setTimeout(() => location.reload(), 3000);
      }
      draw();
    }));
  }

  function forget(old) {
    for (const address of old.clips) {
      clips.get(address)?.then((url) => URL.revokeObjectURL(url), () => {});
      clips.delete(address);
    }
  }

  async function lookAhead() {
    const found = await untilItWorks(() => post("/api/rounds", {}), () => {});
    if (!found.ok) return null;
    const { rounds } = found.body;
    next = rounds.find((r) => r.token !== round.token) ?? null;
    if (next) next.clips.forEach((address) => load(address).catch(() => {}));
    return rounds;
  }

  async function send(pending) {
    sending = true;
    draw();
    const reply = await untilItWorks(
      () => post("/api/answer", pending),
      () => say("No connection. Your answer is kept here and will be sent again.", true),
    );
    // Signed out, or a page of an older session: the answer is sent after the reload.
    if (reply.status === 401 || reply.status === 403) return location.reload();
    localStorage.removeItem(PENDING);
    sending = false;
    if (reply.status === 422) {
      await show(round);
      return say(`Not stored: ${reply.body.error}.`, true);
    }
    if (!reply.ok) return location.reload(); // expired, undone, or answered in another tab
    const stored = reply.body;
    answered = stored.answered;
    undoRound.value = pending.round;
    say(answered % goal === 0
      ? `Stored. That makes ${answered} answers: thank you! Go on, or stop here for today.`
      : `Stored: ${answered} answered.`);
    const old = round;
    let current = stored.current;
    if (!current) current = (await lookAhead())?.[0] ?? null;
    if (!current) return location.reload(); // no round is left: the server shows the page for that
    if (next && next.token === current.token) current = next;
    if (old.token !== current.token) forget(old);
    const shown = show(current);
    heading.focus({ preventScroll: true });
    await shown;
    await lookAhead();
  }

  function choose(place) {
    if (sending) return;
    if (!ready()) {
      const left = missing().findIndex((s) => s > 0);
      return say(`First listen to clip ${left + 1} for ${Math.ceil(missing()[left])} more seconds.`);
    }
    stop();
    if (place !== null) cards[place].classList.add("chosen");
    const pending = { round: round.token, place, listened_s: listenedS.map((s) => Number(s.toFixed(2))) };
    localStorage.setItem(PENDING, JSON.stringify(pending));
    send(pending);
  }

  plays.forEach((button, place) => button.addEventListener("click", () => play(place)));
  chooses.forEach((button, place) => button.addEventListener("click", () => choose(place)));
  cantTell.addEventListener("click", () => choose(null));
  document.getElementById("undo-form").addEventListener("submit", () => {
    localStorage.removeItem(PENDING);
  });

  const keysOff = () => localStorage.getItem(KEYS) !== null;
  function drawKeys() {
    keys.textContent = keysOff() ? "Keys are off" : "Keys are on";
    keys.setAttribute("aria-pressed", String(!keysOff()));
    document.getElementById("keys-help").hidden = keysOff();
  }
  keys.addEventListener("click", () => {
    if (keysOff()) localStorage.removeItem(KEYS);
    else localStorage.setItem(KEYS, "1");
    drawKeys();
  });

  let swallow = false; // the keyup of a space that stopped the music must not press a button
  document.addEventListener("keydown", (event) => {
    if (keysOff() || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase();
    const onButton = event.target.closest("button, a, summary, input");
    if (key === " ") {
      if (playing < 0 || (onButton && !onButton.classList.contains("play"))) return;
      stop();
      swallow = true;
    } else if ("123".includes(key)) play(Number(key) - 1);
    else if ("qwe".includes(key)) choose("qwe".indexOf(key));
    else if (key === "r") choose(null);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && swallow) {
      swallow = false;
      event.preventDefault();
    }
  });

  async function begin() {
    drawKeys();
    const unsent = localStorage.getItem(PENDING);
    if (unsent !== null) {
      say("Sending your answer from last time.");
      const pending = JSON.parse(unsent);
      if (pending.heard_s) { // kept by an earlier version of this page
        pending.listened_s = pending.heard_s;
        delete pending.heard_s;
      }
      return send(pending);
    }
    await show(round);
    await lookAhead();
  }
  begin();
})();
