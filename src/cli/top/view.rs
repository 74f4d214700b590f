//! Live view of `p2pfs top`: draws the lines and columns of [`rows`], fitted to the terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row, Table};

use super::rows::{self, Part};
use crate::daemon::control::Top;

pub(super) fn draw(frame: &mut Frame<'_>, top: &Top, coloured: bool) {
    let parts = rows::parts(top);
    let heights = heights(&parts, frame.area().height.saturating_sub(2));
    let [first, second, third] = heights.map(Constraint::Length);
    let lines = [
        Constraint::Length(1),
        first,
        second,
        third,
        Constraint::Fill(1),
    ];
    let areas: [Rect; 5] = Layout::vertical(lines).areas(frame.area());
    let [title, places @ .., rest] = areas;
    frame.render_widget(Line::from(rows::summary(top)).bold(), title);
    for (part, place) in parts.into_iter().zip(places) {
        draw_part(frame, part, place, coloured);
    }
    let bottom = Rect {
        y: rest.bottom().saturating_sub(1),
        height: rest.height.min(1),
        ..rest
    };
    frame.render_widget(Line::from("q: quit").dim(), bottom);
}

/// Returns the height of each section, including its heading and a preceding blank line. Each gets
/// what it needs if there is room, otherwise a fair share.
fn heights(parts: &[Part; 3], room: u16) -> [u16; 3] {
    let needed = |part: &Part| {
        u16::try_from(part.rows.len() + 2)
            .unwrap_or(u16::MAX)
            .max(2)
    };
    let mut given = [0; 3];
    let mut left = room;
    // Sections with the smallest need come first: the part of its share that a section does not
    // need goes to the sections after it.
    let mut order = [0, 1, 2];
    order.sort_by_key(|part| needed(&parts[*part]));
    for (place, part) in order.into_iter().enumerate() {
        let sharers = u16::try_from(order.len() - place).unwrap_or(1);
        given[part] = needed(&parts[part]).min(left / sharers);
        left -= given[part];
    }
    given
}

fn draw_part(frame: &mut Frame<'_>, part: Part, place: Rect, coloured: bool) {
    let [_, place] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(place);
    if part.rows.is_empty() {
        return frame.render_widget(Line::from(part.nothing).dim(), place);
    }
    let columns = 0..part.heading.len();
    let widths: Vec<usize> = columns.map(|column| width(&part, column)).collect();
    let last = part.heading.len() - 1;
    let constraints = widths.iter().enumerate().map(|(column, width)| {
        let width = u16::try_from(*width).unwrap_or(u16::MAX);
        if column == last {
            Constraint::Fill(1)
        } else {
            Constraint::Length(width)
        }
    });
    let cells = |row: &[String]| {
        let aligned = row.iter().enumerate().map(|(column, text)| {
            let line = Line::from(Span::raw(text.clone()));
            if part.right.contains(&column) {
                line.right_aligned()
            } else {
                line
            }
        });
        Row::new(aligned.collect::<Vec<_>>())
    };
    let heading: Vec<String> = part.heading.iter().map(|it| (*it).to_owned()).collect();
    let emphasis = if coloured {
        Style::new().cyan()
    } else {
        Style::new().add_modifier(Modifier::UNDERLINED)
    };
    let rows: Vec<Row<'_>> = part.rows.iter().map(|row| cells(row)).collect();
    let table = Table::new(rows, constraints)
        .header(cells(&heading).style(emphasis))
        .column_spacing(2);
    frame.render_widget(table, place);
}

fn width(part: &Part, column: usize) -> usize {
    let cells = part.rows.iter().filter_map(|row| row.get(column));
    let widths = cells.map(|text| Span::raw(text.as_str()).width());
    widths.max().unwrap_or(0).max(part.heading[column].len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(rows: [usize; 3]) -> [Part; 3] {
        rows.map(|rows| Part {
            heading: &["A"],
            right: &[],
            shortened: &[],
            rows: vec![vec![String::new()]; rows],
            nothing: "nothing",
        })
    }

    #[test]
    fn each_part_gets_what_it_needs_or_a_fair_share() {
        assert_eq!(heights(&parts([1, 2, 3]), 40), [3, 4, 5]);
        assert_eq!(heights(&parts([100, 1, 100]), 23), [10, 3, 10]);
        assert_eq!(heights(&parts([100, 100, 0]), 22), [10, 10, 2]);
        assert_eq!(heights(&parts([9, 9, 9]), 0), [0, 0, 0]);
    }
}
