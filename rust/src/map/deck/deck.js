// What the page of the map uses of deck.gl, and a layer of its own.
import { Layer, project32 } from "@deck.gl/core";
import { Model } from "@luma.gl/engine";

export { Deck, OrthographicView } from "@deck.gl/core";
export { LineLayer, ScatterplotLayer } from "@deck.gl/layers";

const block = `layout(std140) uniform discUniforms { float pixels; } disc;`;
const discUniforms = { name: "disc", vs: block, fs: block, uniformTypes: { pixels: "f32" } };

const vs = `#version 300 es
in vec2 positions;
in vec4 colors;
out vec4 color;
void main() {
  gl_Position = project_position_to_clipspace(vec3(positions, 0.0), vec3(0.0), vec3(0.0));
  gl_PointSize = disc.pixels;
  color = colors;
}`;
const fs = `#version 300 es
precision highp float;
in vec4 color;
out vec4 fragColor;
void main() {
  float edge = disc.pixels * (0.5 - length(gl_PointCoord - 0.5));
  if (edge <= 0.0) discard;
  fragColor = vec4(color.rgb, color.a * min(edge, 1.0));
}`;

// Discs of one size as points of WebGL, with one vertex each. ScatterplotLayer draws four vertices
// and an instance each, which takes a hundred times as long where no graphics card draws.
// The property `diameter` is in pixels of the page.
export class DiscLayer extends Layer {
  getShaders() {
    return super.getShaders({ vs, fs, modules: [project32, discUniforms] });
  }

  initializeState() {
    const manager = this.getAttributeManager();
    manager.remove(["instancePickingColors"]);
    manager.add({
      positions: { size: 2, accessor: "getPosition" },
      colors: { size: 4, type: "unorm8", accessor: "getFillColor" },
    });
    this.state.model = new Model(this.context.device, {
      ...this.getShaders(),
      id: this.props.id,
      topology: "point-list",
      bufferLayout: manager.getBufferLayouts(),
    });
  }

  draw() {
    const { model } = this.state;
    const pixels = this.props.diameter * this.context.device.canvasContext.cssToDeviceRatio();
    model.shaderInputs.setProps({ disc: { pixels } });
    model.setVertexCount(this.props.data.length);
    model.draw(this.context.renderPass);
  }
}
DiscLayer.layerName = "DiscLayer";
DiscLayer.defaultProps = {
  getPosition: { type: "accessor", value: [0, 0] },
  getFillColor: { type: "accessor", value: [0, 0, 0, 255] },
  diameter: 4,
};
