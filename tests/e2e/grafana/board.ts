/**
 * What a dashboard file may hold: Grafana's own types, read as JSON and without their loopholes.
 *
 * Grafana publishes its schema as types. They know enums where a file has words, and leave a panel's `options`, `custom` and
 * `targets` open; here a panel's type decides what may stand in them, so that a misspelt key is an error of the compiler.
 * Prometheus' queries are not part of the package: theirs are written down as its data source reads them.
 */
import type { AnnotationQuery, Dashboard, DataSourceRef, DataTransformerConfig, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type * as bargauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** `T` as it stands in a file: the values of enums, all the way down. */
type Json<T> = T extends string
  ? `${T}`
  : T extends readonly (infer Item)[]
    ? Json<Item>[]
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

/** A data source by the variable of that name, and no other: a dashboard must work wherever it is imported. */
type Source = DataSourceRef & { type: "prometheus"; uid: "${datasource}" };

interface Query {
  refId: string;
  datasource: Source;
  editorMode: "code";
  expr: string;
  legendFormat: string;
  format: "time_series" | "heatmap" | "table";
  instant: boolean;
  range: boolean;
}

/** A panel must also say what it shows, from where, and how its numbers are to be read. */
type Of<Kind extends string, Options, Custom> = Json<Omit<Panel, "type" | "options" | "targets" | "fieldConfig" | "transformations">> & {
  id: number;
  type: Kind;
  title: string;
  description: string;
  datasource: Source;
  gridPos: { x: number; y: number; w: number; h: number };
  options: Json<Options>;
  targets: Query[];
  transformations?: Json<DataTransformerConfig>[];
  fieldConfig: Json<Omit<FieldConfigSource, "defaults">> & {
    defaults: Json<Omit<FieldConfig, "custom" | "unit">> & { unit: string; custom?: Json<Custom> };
  };
};

type AnyPanel =
  | Of<"stat", stat.Options, never>
  | Of<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Of<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Of<"bargauge", bargauge.Options, never>
  | Of<"table", table.Options, table.FieldConfig>;

/** What the Prometheus data source reads of an annotation besides the schema's part. */
interface PrometheusAnnotation {
  datasource: Source;
  expr: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  step: string;
}

/** The text that was typed, beside the query made of it. */
type Variable = Json<VariableModel> & { definition?: string };

export type Board = Json<Omit<Dashboard, "panels" | "annotations" | "templating">> & {
  uid: string;
  title: string;
  description: string;
  panels: (AnyPanel | (Json<Omit<RowPanel, "panels">> & { panels: [] }))[];
  annotations: { list: (Json<AnnotationQuery> & PrometheusAnnotation)[] };
  templating: { list: Variable[] };
};
