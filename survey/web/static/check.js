/* The check of volume and headphones. The tone in one of three noises is a Huggins pitch: the noise
   is the same in both ears, but for a phase that turns by 360 degrees around 600 Hz in one of them,
   which only a listener with both channels apart hears as a tone (Cramer and Huggins 1958; as a
   test of headphones: Milne et al. 2021, doi 10.3758/s13428-020-01514-0). */
"use strict";
(() => {
  const volume = document.getElementById("volume");
  const noises = document.getElementById("noises");
  const guesses = [...document.querySelectorAll(".guess")];
  const verdict = document.getElementById("verdict");
  const NOISE_S = 1;
  const GAP_S = 0.5;
  const LEVEL = 10 ** (-16 / 20); // RMS of white noise, about as loud as a clip at -16 LUFS
  const play = volume.textContent;
  let context = null;
  let sounding = null;
  let tone = -1; // the place of the noise with the tone

  function noise(seconds) {
    context ??= new AudioContext();
    context.resume();
    const buffer = context.createBuffer(1, seconds * context.sampleRate, context.sampleRate);
    const samples = buffer.getChannelData(0);
    const peak = LEVEL * Math.sqrt(3); // a uniform distribution's RMS is its peak / sqrt(3)
    for (let i = 0; i < samples.length; i += 1) samples[i] = peak * (2 * Math.random() - 1);
    const source = context.createBufferSource();
    source.buffer = buffer;
    return source;
  }

  function stopVolume() {
    sounding?.stop();
    sounding = null;
    volume.textContent = play;
    volume.setAttribute("aria-pressed", "false");
  }

  volume.addEventListener("click", () => {
    if (sounding) return stopVolume();
    sounding = noise(2);
    sounding.loop = true;
    sounding.connect(context.destination);
    sounding.start();
    volume.textContent = volume.dataset.stop;
    volume.setAttribute("aria-pressed", "true");
  });

  noises.addEventListener("click", () => {
    stopVolume();
    noises.disabled = true;
    guesses.forEach((guess) => { guess.disabled = true; });
    tone = Math.floor(3 * Math.random());
    let start = 0;
    for (let place = 0; place < 3; place += 1) {
      const source = noise(NOISE_S);
      const both = context.createChannelMerger(2);
      source.connect(both, 0, 0);
      if (place === tone) {
        const turned = new BiquadFilterNode(context, { type: "allpass", frequency: 600, Q: 8 });
        source.connect(turned).connect(both, 0, 1);
      } else {
        source.connect(both, 0, 1);
      }
      both.connect(context.destination);
      start ||= context.currentTime + 0.1;
      source.start(start + place * (NOISE_S + GAP_S));
      setTimeout(() => {
        verdict.textContent = verdict.dataset.playing.replace("{n}", place + 1);
      }, 1000 * place * (NOISE_S + GAP_S));
      if (place === 2) {
        source.addEventListener("ended", () => {
          noises.disabled = false;
          verdict.textContent = "";
          guesses.forEach((guess) => { guess.disabled = false; });
        });
      }
    }
  });

  guesses.forEach((guess, place) => guess.addEventListener("click", () => {
    const { yes, no } = verdict.dataset;
    verdict.textContent = place === tone ? yes : no.replace("{n}", tone + 1);
    guesses.forEach((other) => { other.disabled = true; });
  }));
})();
