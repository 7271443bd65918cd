// Completes a database's names in an editor, and tells what is selected there. All of it is data, none of it code.
import * as CM from "nicegui-codemirror";

export default {
  template: "<span hidden></span>",
  props: { editor: Number, names: Array },
  async mounted() {
    const element = await this.found();
    if (!element.editor) await element.editorPromise;
    this.view = element.editor;
    const complete = (context) => {
      const word = context.matchBefore(/[\w$".]+/);
      if (!word || (word.from === word.to && !context.explicit)) return null;
      const dot = word.text.lastIndexOf(".");
      return {
        from: word.from + dot + 1,
        options: this.names.map(([label, detail, type]) => ({ label, detail, type, boost: 10 })),
        validFor: /^[\w$"]*$/,
      };
    };
    const data = CM.EditorState.languageData.of(() => [{ autocomplete: complete }]);
    this.view.dispatch({ effects: CM.StateEffect.appendConfig.of(data) });
    this.view.contentDOM.setAttribute("aria-label", "SQL");
  },
  methods: {
    async found() {
      for (let tries = 0; tries < 1200; tries++) {
        const element = mounted_app === undefined ? undefined : getElement(this.editor);
        if (element) return element;
        await new Promise((resolve) => setTimeout(resolve, 25));
      }
      throw new Error("there is no editor");
    },
    selected() {
      if (!this.view) return ["", 0];
      const { from, to } = this.view.state.selection.main;
      const before = this.view.state.sliceDoc(0, from);
      return [this.view.state.sliceDoc(from, to), [...before].length];
    },
  },
};
