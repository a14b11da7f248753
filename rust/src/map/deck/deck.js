export { Deck, LinearInterpolator, OrthographicView } from "@deck.gl/core";
export { LineLayer, ScatterplotLayer } from "@deck.gl/layers";
