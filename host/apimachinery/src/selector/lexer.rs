//! Tokens and grammar of label selectors.

use super::{Operator, Requirement, SelectorError};
use crate::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Identifier,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Fault,
}

type Lexeme = (Token, String);

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "(" => Token::Open,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" => Token::Equals,
        "==" => Token::DoubleEquals,
        "!=" => Token::NotEquals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => return None,
    })
}

fn tokens(text: &str) -> Vec<Lexeme> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_special(first) {
            // The longest known symbol: `!=` and `==` before `!` and `=`.
            let two = rest.get(..2).and_then(|s| keyword(s).map(|token| (token, 2)));
            two.or_else(|| rest.get(..1).and_then(|s| keyword(s).map(|token| (token, 1))))
                .unwrap_or((Token::Fault, 1))
        } else {
            let length = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
            (rest.get(..length).and_then(keyword).unwrap_or(Token::Identifier), length)
        };
        let (lexeme, tail) = rest.split_at(length);
        tokens.push((token, lexeme.to_owned()));
        rest = tail.trim_start_matches(is_space);
    }
    tokens
}

struct Parser {
    tokens: std::vec::IntoIter<Lexeme>,
}

/// Where operators' words may be values: `in` is a fine label value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Values,
    KeyAndOperator,
}

fn in_context((token, text): Lexeme, context: Context) -> Lexeme {
    match token {
        Token::In | Token::NotIn if context == Context::Values => (Token::Identifier, text),
        _ => (token, text),
    }
}

impl Parser {
    fn peek(&self) -> Lexeme {
        let next = self.tokens.as_slice().first().cloned().unwrap_or((Token::End, String::new()));
        in_context(next, Context::Values)
    }

    fn take(&mut self, context: Context) -> Lexeme {
        in_context(self.tokens.next().unwrap_or((Token::End, String::new())), context)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut unary = None;
        let (mut token, mut key) = self.take(Context::Values);
        if token == Token::Not {
            unary = Some(Operator::DoesNotExist);
            (token, key) = self.take(Context::Values);
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        let faults = names::qualified_name(&key);
        if !faults.is_empty() {
            return fail(format!("<nil>: Invalid value: {key:?}: {}", faults.join("; ")));
        }
        if matches!(self.peek().0, Token::End | Token::Comma) && unary.is_none() {
            unary = Some(Operator::Exists);
        }
        if let Some(operator) = unary {
            return Requirement::new(&key, operator, Vec::new());
        }
        let (token, text) = self.take(Context::KeyAndOperator);
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals | Token::DoubleEquals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return fail(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take(Context::Values) {
            (Token::Identifier, text) => Ok(text),
            (_, text) => fail(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.take(Context::Values);
        if token != Token::Open {
            return fail(format!("found '{text}' expected: '('"));
        }
        match self.peek() {
            (Token::Close, _) => {
                self.take(Context::Values);
                Ok(vec![String::new()])
            }
            (Token::Identifier | Token::Comma, _) => {
                let mut values = self.identifiers()?;
                let (token, text) = self.take(Context::Values);
                if token != Token::Close {
                    return fail(format!("found '{text}', expected: ')'"));
                }
                values.sort_unstable();
                values.dedup();
                Ok(values)
            }
            (_, text) => fail(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            match self.take(Context::Values) {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return fail(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.take(Context::Values);
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return fail(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

fn fail<T>(text: String) -> Result<T, SelectorError> {
    Err(SelectorError(text))
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text).into_iter() };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::Not, _) => {
                let requirement = parser
                    .requirement()
                    .map_err(|fault| SelectorError(format!("unable to parse requirement: {fault}")))?;
                requirements.push(requirement);
                match parser.take(Context::Values) {
                    (Token::End, _) => return Ok(requirements),
                    (Token::Comma, _) => {
                        let (token, text) = parser.peek();
                        if !matches!(token, Token::Identifier | Token::Not) {
                            return fail(format!("found '{text}', expected: identifier after ','"));
                        }
                    }
                    (_, text) => return fail(format!("found '{text}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => return Ok(requirements),
            (_, text) => return fail(format!("found '{text}', expected: !, identifier, or 'end of string'")),
        }
    }
}
